"""A report on the features of a trained network: figures, and their data."""

import csv
import io
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_sweep.analysis.activations import (
    draw_activations,
    draw_filters,
    first_filters,
    stage_activations,
    strongest_channels,
)
from resnet_sweep.analysis.dead_channels import (
    DeadChannels,
    ReluMaxima,
    draw_dead_channels,
    to_json,
)
from resnet_sweep.analysis.embedding import ClassifierInputs, draw_embedding, embed
from resnet_sweep.analysis.grad_cam import draw_grad_cam, grad_cam
from resnet_sweep.analysis.layers import find_layers
from resnet_sweep.data.dataset import Batches, Dataset, IndexArray, Split, balanced_subset
from resnet_sweep.picture import png
from resnet_sweep.training.evaluation import Normalize, autocast, predict

# Test images for the embedding and the dead channels.
SURVEYED = 2000

Files = dict[str, bytes]


class Survey(NamedTuple):
    """Predictions for test images, and what hooks saw meanwhile.

    Attributes:
        positions, labels, predicted: (n,), int64.
        inputs: inputs of the classifier.
        maxima: largest outputs of each ReLU.
    """

    positions: IndexArray
    labels: IndexArray
    predicted: IndexArray
    inputs: ClassifierInputs
    maxima: ReluMaxima


class FeatureReport:
    """Figures of a network's features, and their data.

    The method of each part returns the contents of files by their names, or raises
    NotApplicableError if the part doesn't apply to the network.

    Args:
        model: on the device, in evaluation mode.
        dataset: its test set is used.
        normalize: maps images to the model's input.
        device, precision: of the model.
        positions: positions in the test set of the images that are shown.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        normalize: Normalize,
        device: torch.device,
        precision: str,
        positions: list[int],
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.normalize = normalize
        self.device = device
        self.precision = precision
        self.positions = positions
        images, labels = Batches(dataset.test, device).take(torch.tensor(positions, device=device))
        self.inputs, self.labels = normalize(images), labels
        self.pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        with torch.inference_mode(), autocast(device, precision):
            self.probabilities = model(self.inputs).float().softmax(1)
            self.layers = find_layers(model, self.inputs[:1])
        self.predicted = self.probabilities.argmax(1)

    def parts(self) -> dict[str, Callable[[], Files]]:
        """Return the method of each part by the part's name."""
        return {
            "filters": self.filters,
            "activations": self.activations,
            "grad_cam": self.grad_cam,
            "embedding": self.embedding,
            "dead_channels": self.dead_channels,
        }

    def filters(self) -> Files:
        """Return the filters of the first convolution."""
        filters = first_filters(self.model)
        figure = draw_filters(filters, f"The {len(filters)} filters of the first convolution")
        return {"filters.png": png(figure), "filters.npz": _npz(filters=filters)}

    def activations(self) -> Files:
        """Return the activations of each stage."""
        with autocast(self.device, self.precision):
            activations = stage_activations(self.model, self.layers, self.inputs)
        figure = draw_activations(
            activations, self.pixels, self._captions(), "Activations after each stage"
        )
        arrays = {"positions": np.array(self.positions), "images": self.pixels}
        for name, maps in activations.items():
            chosen = strongest_channels(maps)
            arrays[f"{name} mean"] = maps.mean(1)
            arrays[f"{name} channels"] = chosen
            arrays[f"{name} strongest"] = np.take_along_axis(maps, chosen[:, :, None, None], axis=1)
        return {"activations.png": png(figure), "activations.npz": _npz(**arrays)}

    def grad_cam(self) -> Files:
        """Return Grad-CAM maps of the predicted and of the true classes."""
        with autocast(self.device, self.precision):
            predicted, true = (
                grad_cam(self.model, self.layers, self.inputs, classes)
                for classes in (self.predicted, self.labels)
            )
        wrong = (self.predicted != self.labels).tolist()
        rows = [
            ("predicted", list(predicted), self._class_captions(self.predicted)),
            (
                "true, where\nit differs",
                [map_ if differs else None for map_, differs in zip(true, wrong, strict=True)],
                self._class_captions(self.labels),
            ),
        ]
        figure = draw_grad_cam(
            self.pixels,
            rows if any(wrong) else rows[:1],
            self._captions(),
            "Grad-CAM of the last feature maps",
        )
        data = _npz(
            positions=np.array(self.positions),
            images=self.pixels,
            labels=self.labels.cpu().numpy(),
            predicted=self.predicted.cpu().numpy(),
            predicted_maps=predicted.numpy(),
            true_maps=true.numpy(),
        )
        return {"grad_cam.png": png(figure), "grad_cam.npz": data}

    def embedding(self) -> Files:
        """Return an embedding of the features that the classifier sees."""
        positions, labels, predicted, inputs, _ = self._survey
        points = embed(inputs.features())
        classes = self.dataset.classes
        figure = draw_embedding(
            points, labels, classes, f"t-SNE of the last features of {len(points):,} test images"
        )
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(("position", "x", "y", "label", "predicted"))
        for position, (x, y), label, guess in zip(
            positions, points, labels, predicted, strict=True
        ):
            writer.writerow((position, f"{x:.4f}", f"{y:.4f}", classes[label], classes[guess]))
        return {"embedding.png": png(figure), "embedding.csv": content.getvalue().encode()}

    def dead_channels(self) -> Files:
        """Return the number of dead channels of each layer."""
        images, found = len(self._survey.positions), self.count_dead_channels()
        figure = draw_dead_channels(found, f"Channels never above zero on {images:,} test images")
        return {"dead_channels.png": png(figure), "dead_channels.json": to_json(found, images)}

    def count_dead_channels(self) -> list[DeadChannels]:
        """Return the number of dead channels of each ReLU."""
        return self._survey.maxima.dead_channels()

    @cached_property
    def _survey(self) -> Survey:
        """Predictions for up to SURVEYED test images."""
        test = self.dataset.test
        positions = balanced_subset(test.labels[test.indices], min(SURVEYED, len(test)), seed=0)
        batches = Batches(Split(test.images, test.labels, test.indices[positions]), self.device)
        with ClassifierInputs(self.layers) as inputs, ReluMaxima(self.model) as maxima:
            logits, labels = predict(self.model, batches, self.normalize, self.precision)
        return Survey(positions, labels.numpy(), logits.argmax(1).numpy(), inputs, maxima)

    def _captions(self) -> list[str]:
        return [
            f"{self.dataset.classes[label]}\n(image {position})"
            for label, position in zip(self.labels.tolist(), self.positions, strict=True)
        ]

    def _class_captions(self, classes: Tensor) -> list[str]:
        """Return the name and probability of a class for each image."""
        shares = self.probabilities.gather(1, classes[:, None])[:, 0].tolist()
        return [
            f"{self.dataset.classes[label]} {100 * share:.0f}%"
            for label, share in zip(classes.tolist(), shares, strict=True)
        ]


def _npz(**arrays: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()
