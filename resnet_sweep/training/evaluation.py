"""Evaluation of a model: its predictions for a split, and their accuracy and loss."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_sweep.data.dataset import Batches

# This size is large enough to keep a GPU busy, and small enough for the caches of a CPU. Batches of
# images that are larger than 32x32 are smaller.
BATCH_SIZE, BATCH_PIXELS = 250, 250 * 32 * 32


class Normalize(nn.Module):
    """Normalizes images of 0..255 to zero mean and unit standard deviation in each channel.

    Args:
        mean, std: mean and standard deviation per channel, of images scaled to 0..1.
        device: device of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            scaled = torch.tensor(values, device=device).view(1, -1, 1, 1) * 255
            self.register_buffer(name, scaled)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize (B, C, H, W), uint8 or floating, to float32 in channels-last memory format."""
        normalized = (images.float() - self.mean) / self.std
        return normalized.contiguous(memory_format=torch.channels_last)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which a forward pass computes in "float32" or "bfloat16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def predict(
    model: nn.Module,
    batches: Batches,
    normalize: Normalize,
    precision: str,
    check: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the model's logits and the labels for all n images of a split.

    Afterwards, the model is in evaluation mode.

    Args:
        precision: "float32" or "bfloat16".
        check: called before each batch; may raise to stop the evaluation.

    Returns:
        Logits, (n, classes), float32, and labels, (n,), int64, both on the CPU.
    """
    model.eval()
    height, width = batches.images.shape[-2:]
    size = max(1, min(BATCH_SIZE, BATCH_PIXELS // (height * width)))
    logits, labels = [], []
    with torch.inference_mode(), autocast(batches.device, precision):
        positions = torch.arange(len(batches), device=batches.indices.device)
        for images, batch_labels in batches.each(torch.split(positions, size)):
            if check is not None:
                check()
            logits.append(model(normalize(images)).float())
            labels.append(batch_labels)
    return torch.cat(logits).cpu(), torch.cat(labels).cpu()


def accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Return the percentage of the images whose label is among the k largest logits."""
    largest = logits.topk(min(k, logits.shape[1])).indices
    return 100 * (largest == labels[:, None]).any(1).double().mean().item()


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over the images of -log(softmax(logits)[label])."""
    return F.cross_entropy(logits.double(), labels).item()


class FlipAverage(nn.Module):
    """Test-time augmentation: the mean of the probabilities for an image and its mirror image.

    Simonyan and Zisserman, 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", section 3.2; Krizhevsky et al., 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 4.1, where crops are averaged, too.

    Shapes: images (N, C, H, W) to logarithms of the mean probabilities, (N, classes).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        upright, mirrored = (
            F.log_softmax(self.model(view).float(), dim=1) for view in (images, images.flip(3))
        )
        return torch.logaddexp(upright, mirrored) - math.log(2)
