"""A portrait of a trained network: pictures of what it has learned, and their data."""

import csv
import io
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from resnet_sweep.analysis.activations import (
    draw_activations,
    stage_activations,
    strongest_channels,
)
from resnet_sweep.analysis.channels import DeadChannels, ReluMaxima, draw_channels, to_json
from resnet_sweep.analysis.class_activation import draw_class_activation, grad_cam
from resnet_sweep.analysis.embedding import ClassifierInputs, draw_embedding, embed
from resnet_sweep.analysis.filters import draw_filters, first_filters
from resnet_sweep.analysis.layers import find_layers
from resnet_sweep.data.batches import Batches
from resnet_sweep.data.dataset import Dataset, Split
from resnet_sweep.data.subset import balanced_subset
from resnet_sweep.picture import png
from resnet_sweep.training.evaluation import Normalize, autocast, predict

PARTS = ("filters", "activations", "class_activation", "embedding", "channels")
# Images that the map and the counts of channels are made of.
SURVEYED = 2000

Files = dict[str, bytes]


class Portrait:
    """Each of PARTS is a method that gives files by their names.

    It raises NotApplicableError where that has no meaning for the network.

    Args:
        model: on the device, in evaluation mode.
        dataset: whose test set is looked at.
        normalize: to the model's input.
        device, precision: of the model.
        positions: of the images in the test set that are looked at one by one.
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

    def filters(self) -> Files:
        """The filters of the first convolution."""
        filters = first_filters(self.model)
        figure = draw_filters(filters, f"The {len(filters)} filters of the first convolution")
        return {"filters.png": png(figure), "filters.npz": _npz(filters=filters)}

    def activations(self) -> Files:
        """What the stages make of the images."""
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

    def class_activation(self) -> Files:
        """Where in the images the predicted class is seen, and where the true one."""
        with autocast(self.device, self.precision):
            predicted, true = (
                grad_cam(self.model, self.layers, self.inputs, classes)
                for classes in (self.predicted, self.labels)
            )
        wrong = (self.predicted != self.labels).tolist()
        rows = [
            ("predicted", list(predicted), self._sureness(self.predicted)),
            (
                "true, where\nit differs",
                [each if differs else None for each, differs in zip(true, wrong, strict=True)],
                self._sureness(self.labels),
            ),
        ]
        figure = draw_class_activation(
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
        return {"class_activation.png": png(figure), "class_activation.npz": data}

    def embedding(self) -> Files:
        """A map of the features that the classifier sees."""
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

    def channels(self) -> Files:
        """How many channels are dead."""
        images, found = len(self._survey[0]), self.dead_channels()
        figure = draw_channels(found, f"Channels never above zero on {images:,} test images")
        return {"channels.png": png(figure), "channels.json": to_json(found, images)}

    def dead_channels(self) -> list[DeadChannels]:
        """Of each ReLU."""
        return self._survey[-1].dead_channels()

    @cached_property
    def _survey(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, ClassifierInputs, ReluMaxima]:
        """Positions, labels and predictions of up to SURVEYED images, and what was seen of them."""
        test = self.dataset.test
        positions = balanced_subset(test.labels[test.indices], min(SURVEYED, len(test)), seed=0)
        batches = Batches(Split(test.images, test.labels, test.indices[positions]), self.device)
        with ClassifierInputs(self.layers) as inputs, ReluMaxima(self.model) as maxima:
            logits, labels = predict(self.model, batches, self.normalize, self.precision)
        return positions, labels.numpy(), logits.argmax(1).numpy(), inputs, maxima

    def _captions(self) -> list[str]:
        return [
            f"{self.dataset.classes[label]}\n(image {position})"
            for label, position in zip(self.labels.tolist(), self.positions, strict=True)
        ]

    def _sureness(self, classes: Tensor) -> list[str]:
        """The names of classes, one an image, with their probabilities."""
        shares = self.probabilities.gather(1, classes[:, None])[:, 0].tolist()
        return [
            f"{self.dataset.classes[label]} {100 * share:.0f}%"
            for label, share in zip(classes.tolist(), shares, strict=True)
        ]


def _npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
