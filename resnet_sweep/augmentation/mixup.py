"""MixUp."""

from torch import Generator, Tensor

from resnet_sweep.augmentation.mixing import Mixing, mix_labels


class MixUp(Mixing):
    """Blend each image with another one, and their labels likewise.

    Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization"; with a share for each image,
    where its authors' program has one for the batch.

    Args:
        num_classes: of the data.
        alpha: the share that an image keeps is from Beta(alpha, alpha).
        probability: of an image being mixed.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        partners, shares = self.draw(len(images), generator)
        mixed = blend(images, partners, shares)
        return mixed, mix_labels(labels, partners, shares, self.num_classes)


def blend(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """The weighted mean of each image and its partner.

    Args:
        images: (B, C, H, W).
        partners: (B,), int64.
        shares: (B,), float32, the image's own weight.

    Returns:
        (B, C, H, W), floating.
    """
    shares = shares[:, None, None, None]
    return shares * images + (1 - shares) * images[partners]
