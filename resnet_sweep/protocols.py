"""The interfaces of the parts that a config names, for parts of your own.

A network and a loss are `torch.nn.Module`s, and an optimizer is a `torch.optim.Optimizer`. A
schedule is a subclass of `resnet_sweep.training.schedules.Schedule`, and a logger is a subclass of
`resnet_sweep.training.callbacks.Callback`. The classes in this module needn't be subclassed.

Objects are built in the process that trains a run, so they needn't be picklable. They are built
more than once: to validate a config, and to train. A constructor must not change files.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from resnet_sweep.data.dataset import Dataset


@runtime_checkable
class DataSource(Protocol):
    """The object that the group `data` describes."""

    def load(self, seed: int) -> "Dataset":
        """Return the images, with the same content and the same fingerprint in every call.

        A process calls this method more than once, so slow work has to be cached.

        Args:
            seed: seed of the run, which may choose a subset of the images.
        """


@runtime_checkable
class Augmentation(Protocol):
    """An operation of the group `augmentation`, applied to every training batch.

    The program passes two parameters to its constructor, if they exist: `num_classes`, and `mean`,
    the mean of each channel of the training images, scaled to 0..1.

    An operation has no state that changes between calls, because checkpoints don't contain it.
    """

    def __call__(
        self, images: "Tensor", labels: "Tensor", generator: "Generator"
    ) -> tuple["Tensor", "Tensor"]:
        """Return augmented images and labels, and don't change the arguments.

        Args:
            images: (B, C, H, W), gray (C = 1) or RGB (C = 3), uint8, or floating in the same range,
                0..255. The returned images have the same shape.
            labels: (B,), int64; or, after images were mixed, (B, classes), float32: the share of
                each class. An operation that mixes images returns the second form.
            generator: on the device of the images, and seeded by the seed, the epoch and the step.
                It is the only source of random numbers, so that a resumed run draws the same ones.
        """


class Loss(Protocol):
    """The loss of the group `loss`, a `torch.nn.Module`; its parameters aren't trained."""

    def __call__(self, logits: "Tensor", labels: "Tensor", /) -> "Tensor":
        """Return the mean loss of a batch as a scalar.

        Args:
            logits: (B, classes), float32; or bfloat16 if the precision is bfloat16.
            labels: (B,), int64, or (B, classes), float32; see `Augmentation`.
        """


@runtime_checkable
class ValidationMetric(Protocol):
    """A metric of the group `metric`; each metric of torchmetrics is one.

    The program passes the parameter `num_classes` to its constructor, if it exists. If an object
    has a method `reset`, the program calls it after each epoch.
    """

    def __call__(self, logits: "Tensor", labels: "Tensor") -> "float | Tensor":
        """Return the value for all validation images, a number or a tensor with one element.

        Args:
            logits: (n, classes), float32, on the CPU.
            labels: (n,), int64, on the CPU.
        """
