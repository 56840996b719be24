"""Batched augmentation does to each image what torchvision does to one."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from resnet_sweep.augmentation import RandomCrop, RandomHorizontalFlip
from resnet_sweep.augmentation.crop import crop


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_is_torchvisions_at_the_same_offsets(images: torch.Tensor, padding: int) -> None:
    top, left = torch.randint(2 * padding + 1, (2, len(images)), generator=generator())
    ours = crop(images, padding, top, left)
    for index, image in enumerate(images):
        padded = functional.pad(image, [padding])
        theirs = functional.crop(padded, int(top[index]), int(left[index]), 32, 32)
        assert torch.equal(ours[index], theirs)


def test_random_crop_draws_every_offset_for_each_image_by_itself() -> None:
    # Each pixel's value is its place, so a crop tells its offset by the pixel in its middle.
    places = torch.arange(32 * 32, dtype=torch.float32).view(1, 1, 32, 32)
    batch = places.expand(4000, 3, 32, 32)
    cropped, _ = RandomCrop(padding=4)(batch, torch.zeros(4000), generator())
    middle = cropped[:, 0, 16, 16].long()
    offsets, counts = torch.stack([middle // 32 - 16, middle % 32 - 16]).unique(
        dim=1, return_counts=True
    )
    assert offsets.shape[1] == 81
    assert offsets.min() == -4
    assert offsets.max() == 4
    # 4,000 / 81 is 49 with a standard deviation of 7.
    assert counts.min() > 20
    assert counts.max() < 85


def test_flip_is_torchvisions_for_about_half_of_the_images(images: torch.Tensor) -> None:
    many = images.repeat(50, 1, 1, 1)
    flipped, labels = RandomHorizontalFlip()(many, torch.arange(len(many)), generator())
    assert torch.equal(labels, torch.arange(len(many)))
    mirrored = [
        torch.equal(new, functional.hflip(old)) for new, old in zip(flipped, many, strict=True)
    ]
    kept = [torch.equal(new, old) for new, old in zip(flipped, many, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 900 < sum(mirrored) < 1100


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_flip_probability(images: torch.Tensor, probability: float, expected: bool) -> None:
    flipped, _ = RandomHorizontalFlip(probability)(images, images[:, 0, 0, 0], generator())
    assert torch.equal(flipped, images.flip(-1)) is expected


@pytest.mark.parametrize("operation", [RandomCrop(), RandomHorizontalFlip()])
def test_the_generator_alone_decides(images: torch.Tensor, operation) -> None:
    once, _ = operation(images, images[:, 0, 0, 0], generator(5))
    torch.rand(100)
    again, _ = operation(images, images[:, 0, 0, 0], generator(5))
    other, _ = operation(images, images[:, 0, 0, 0], generator(6))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
