"""The feature report of a trained network: figures, and their data."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_sweep.analysis import activations, dead_channels, embedding
from resnet_sweep.analysis.grad_cam import grad_cam, overlay
from resnet_sweep.analysis.layers import NotApplicableError, find_layers
from resnet_sweep.data.dataset import Batches, Dataset, IndexArray, Split, balanced_subset
from resnet_sweep.figures import ImageRow, draw_rows, png
from resnet_sweep.training.evaluation import Normalize, autocast, predict

# Largest number of test images for the embedding and the dead channels.
MAX_SAMPLE = 2000
# Number of images in a row of the Grad-CAM figure.
COLUMNS = 8

Files = dict[str, bytes]


class Sample(NamedTuple):
    """A sample of n test images: arrays, (n,), int64, and what hooks collected.

    Attributes:
        positions: positions of the images in the test set.
        labels, predicted: true and predicted classes.
        classifier_inputs: inputs of the classifier, see `collect_inputs`.
        dead_channels: dead channels of each layer for the whole sample.
    """

    positions: IndexArray
    labels: IndexArray
    predicted: IndexArray
    classifier_inputs: list[Tensor]
    dead_channels: list[dead_channels.DeadChannels]


@dataclass
class FeatureReport:
    """Figures of a network's features, and their data.

    Attributes:
        model: model on the device, in evaluation mode.
        dataset: dataset, of which the test set is used.
        normalize: maps images to the model's input.
        device, precision: device and precision of the forward pass.
        positions: positions in the test set of the images in the figures.
    """

    model: nn.Module
    dataset: Dataset
    normalize: Normalize
    device: torch.device
    precision: str
    positions: list[int]

    def __post_init__(self) -> None:
        batches = Batches(self.dataset.test, self.device)
        images, self.labels = batches.take(torch.tensor(self.positions, device=self.device))
        self.inputs = self.normalize(images)
        self.pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        with torch.inference_mode(), autocast(self.device, self.precision):
            self.probabilities = self.model(self.inputs).float().softmax(1)
            self.layers = find_layers(self.model, self.inputs[:1])
        self.predicted = self.probabilities.argmax(1)

    def parts(self) -> dict[str, Callable[[], Files]]:
        """Return the method that creates each part of the report, by the part's name.

        A method returns the contents of files by their names. It raises NotApplicableError if the
        part doesn't apply to the network.
        """
        return {
            "filters": self.filters,
            "activations": self.activations,
            "grad_cam": self.grad_cam,
            "embedding": self.embedding,
            "dead_channels": self.dead_channels,
        }

    def filters(self) -> Files:
        """Return files with the filters of the first convolution."""
        filters = activations.first_filters(self.model)
        figure = activations.draw_filters(filters)
        return {"filters.png": figure, "filters.npz": _npz(filters=filters)}

    def activations(self) -> Files:
        """Return files with the activations of each stage."""
        with autocast(self.device, self.precision):
            maps = activations.stage_activations(self.model, self.layers, self.inputs)
        figure = activations.draw_activations(maps, self.pixels, self._captions())
        arrays = {"positions": np.array(self.positions), "images": self.pixels}
        for name, outputs in maps.items():
            channels, strongest = activations.strongest_channels(outputs)
            arrays[f"{name} mean"] = outputs.mean(1)
            arrays[f"{name} channels"] = channels
            arrays[f"{name} strongest"] = strongest
        return {"activations.png": figure, "activations.npz": _npz(**arrays)}

    def grad_cam(self) -> Files:
        """Return files with Grad-CAM maps of the predicted and of the true classes."""
        with autocast(self.device, self.precision):
            predicted, true = (
                grad_cam(self.model, self.layers, self.inputs, classes)
                for classes in (self.predicted, self.labels)
            )
        rows = [
            ImageRow("", list(self.pixels), self._captions()),
            self._overlays("predicted", predicted, self.predicted),
        ]
        if not torch.equal(self.predicted, self.labels):
            rows.append(self._overlays("true", true, self.labels))
        title = (
            "Grad-CAM of the last feature maps\nfrom 0 (dark) to the map's largest value (bright)"
        )
        data = _npz(
            positions=np.array(self.positions),
            images=self.pixels,
            labels=self.labels.cpu().numpy(),
            predicted=self.predicted.cpu().numpy(),
            predicted_maps=predicted.numpy(),
            true_maps=true.numpy(),
        )
        return {"grad_cam.png": draw_rows(rows, title, COLUMNS), "grad_cam.npz": data}

    def embedding(self) -> Files:
        """Return files with an embedding of the classifier's inputs."""
        sample, classes = self.sample, self.dataset.classes
        if not sample.classifier_inputs:
            raise NotApplicableError("the model has no linear layer")
        points = embedding.embed(torch.cat(sample.classifier_inputs).numpy())
        title = f"t-SNE of the last features of {len(points):,} test images"
        figure = embedding.draw_embedding(points, sample.labels, classes, title)
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(("position", "x", "y", "label", "predicted"))
        for position, (x, y), label, guess in zip(
            sample.positions, points, sample.labels, sample.predicted, strict=True
        ):
            writer.writerow((position, f"{x:.4f}", f"{y:.4f}", classes[label], classes[guess]))
        return {"embedding.png": png(figure), "embedding.csv": content.getvalue().encode()}

    def dead_channels(self) -> Files:
        """Return files with the number of dead channels in each layer."""
        images, layers = len(self.sample.positions), self.sample.dead_channels
        if not layers:
            raise NotApplicableError("the model has no ReLU")
        title = f"Channels that are never above zero for {images:,} test images"
        figure = dead_channels.draw_dead_channels(layers, title)
        content = {"images": images, "layers": [asdict(layer) for layer in layers]}
        data = json.dumps(content, indent=2).encode() + b"\n"
        return {"dead_channels.png": png(figure), "dead_channels.json": data}

    @cached_property
    def sample(self) -> Sample:
        """A class-balanced sample of at most MAX_SAMPLE test images."""
        test = self.dataset.test
        positions = balanced_subset(test.labels[test.indices], min(MAX_SAMPLE, len(test)), seed=0)
        batches = Batches(Split(test.images, test.labels, test.indices[positions]), self.device)
        with (
            embedding.collect_inputs(self.layers.classifier) as inputs,
            dead_channels.collect_maxima(self.model) as maxima,
        ):
            logits, labels = predict(self.model, batches, self.normalize, self.precision)
        predicted, dead = logits.argmax(1).numpy(), dead_channels.dead_channels(maxima)
        return Sample(positions, labels.numpy(), predicted, inputs, dead)

    def _captions(self) -> list[str]:
        return [
            f"{self.dataset.classes[label]}\n(image {position})"
            for label, position in zip(self.labels.tolist(), self.positions, strict=True)
        ]

    def _overlays(self, title: str, maps: Tensor, classes: Tensor) -> ImageRow:
        """Return the images overlaid with Grad-CAM maps, with class and probability as captions.

        Args:
            title: title of the row.
            maps: (B, h, w), a map for each image.
            classes: (B,), the class of each map.
        """
        probabilities = self.probabilities.gather(1, classes[:, None])[:, 0].tolist()
        captions = [
            f"{self.dataset.classes[label]} {100 * probability:.0f}%"
            for label, probability in zip(classes.tolist(), probabilities, strict=True)
        ]
        return ImageRow(title, [*map(overlay, maps, self.pixels)], captions)


def _npz(**arrays: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()
