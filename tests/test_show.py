"""The picture that `python -m resnet_sweep show` draws."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from matplotlib.image import imread
from processes import assert_refused, clean_environment

from resnet_sweep.augmentation import MixUp, RandomHorizontalFlip
from resnet_sweep.augmentation.preview import augment, captions, image_row
from resnet_sweep.cli import main
from resnet_sweep.figures import GAP, IMAGE, MARGIN, draw_rows


def pixels(path: Path) -> np.ndarray:
    """The colors of a picture, (H, W, 3), uint8."""
    return np.rint(imread(path) * 255).astype(np.uint8)[..., :3]


def places(picture: np.ndarray, image: torch.Tensor, zoom: int) -> int:
    """How often an enlarged image is in a picture, pixel by pixel."""
    large = image.permute(1, 2, 0).numpy().repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width = large.shape[:2]
    rows, columns = (picture[: -height + 1, : -width + 1] == large[0, 0]).all(-1).nonzero()
    return sum(
        np.array_equal(picture[row : row + height, column : column + width], large)
        for row, column in zip(rows, columns, strict=True)
    )


def test_a_mixed_label_shows_its_two_largest_shares() -> None:
    classes = ["apple", "bee", "rose"]
    assert captions(torch.tensor([2, 0]), classes) == ["rose", "apple"]
    shares = torch.tensor(
        [[0.62, 0.0, 0.38], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.0, 0.002, 0.998]]
    )
    assert captions(shares, classes) == [
        "apple 0.62 /\nrose 0.38", "bee 0.50 /\nrose 0.30", "bee", "rose"
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_every_image_is_in_the_picture_pixel_by_pixel(
    size: tuple[int, int], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(256, (2, 3, 3, *size), dtype=torch.uint8, generator=generator)
    labels, names = torch.arange(3), ["one", "two\nlines", "three"]
    rows = [
        image_row("before", (before, labels), names),
        image_row("after", (after.float(), labels), names),
    ]
    path = tmp_path / "picture.png"
    # In one row of three images, and in a row of two and one of the third.
    for columns in (None, 2):
        path.write_bytes(draw_rows(rows, "a title", columns))
        picture = pixels(path)
        for image in (*before, *after):
            assert places(picture, image, IMAGE // size[1]) == 1


def test_rows_are_the_images_before_and_draws_that_differ() -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(6)
    classes = list("abcdef")
    operations = [RandomHorizontalFlip(), MixUp(num_classes=6)]
    rows = augment(operations, (images, labels), classes, draws=3, seed=1)
    again = augment(operations, (images, labels), classes, draws=3, seed=1)
    other = augment(operations, (images, labels), classes, draws=3, seed=2)
    assert [row.title for row in rows] == ["before", "draw 1", "draw 2", "draw 3"]
    assert np.array_equal(rows[0].images, images.permute(0, 2, 3, 1))
    assert rows[0].captions == classes
    assert all(np.array_equal(one.images, two.images) for one, two in zip(rows, again, strict=True))
    different = np.unique([row.images for row in rows[1:] + other[1:]], axis=0)
    assert len(different) == 6


def answer(done: subprocess.CompletedProcess) -> tuple[int, str, str]:
    """The exit status of a command, and what it printed."""
    return done.returncode, done.stdout, done.stderr


def test_the_command_draws_the_same_picture_every_time(
    call: Command, command: Command, tmp_path: Path
) -> None:
    arguments = ("data=digits", "augmentation=cutmix", "--images", "2", "--draws", "1")
    assert answer(call(main, "show", *arguments)) == (0, "augmentation_cutmix.png\n", "")
    done = command("show", "-o", "again.png", *arguments)
    assert (done.returncode, done.stdout) == (0, "again.png\n"), done.stderr
    # Options may stand between overrides.
    done = call(main, "show", *arguments, "-o", "other.png", "seed=1")
    assert answer(done) == (0, "other.png\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "augmentation_cutmix.png", "again.png", "other.png"
    }  # fmt: skip
    picture = (tmp_path / "augmentation_cutmix.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "again.png").read_bytes() == picture
    assert (tmp_path / "other.png").read_bytes() != picture


def test_several_choices_name_the_picture_by_what_they_are(call: Command) -> None:
    done = call(main, "show", "data=digits", "augmentation=[cutout,mixup]", "--images=1")
    assert answer(done) == (0, "augmentation_cutout+mixup.png\n", "")


def test_the_first_row_is_of_real_training_images(
    call: Command, tmp_path: Path, cifar100_root: Path
) -> None:
    done = call(main, "show", "--images=2", "-o", "here.png", f"data.root={cifar100_root}")
    assert done.returncode == 0, done.stderr
    zoom = IMAGE // 32
    first = pixels(tmp_path / "here.png")[GAP::zoom, MARGIN::zoom][:32, :32].transpose(2, 0, 1)
    train = np.load(cifar100_root / "cifar100" / "train_images.npy", mmap_mode="r")
    assert (train == first).all((1, 2, 3)).any()


# The words of a command, and what its refusal names.
REFUSALS = [
    (["augmentation=mixup", "augmentation.mixup.alpha=-3"], "augmentation.mixup.alpha", "0", "-3"),
    (["augmentation=null"], "augmentation=null", "color_jitter", "cutmix"),
    (
        ["augmentation.cutout.size=4"],
        "augmentation.cutout", "augmentation.random_crop", "augmentation.random_flip",
    ),
    (["optim.lr=-1"], "optim.lr", "0", "-1"),
    (["optim.lr=1,2"], "optim.lr=1,2", "optim.lr=[1,2]"),
    (["optim.lr=[1,2"], "optim.lr=[1,2"),
    (["--images=0"], "--images", "0", "1", "32"),
    (["--images=33"], "--images", "33", "1", "32"),
    (["data.limit_train=4", "trainer.batch_size=4"], "--images=8", "4"),
    (["--draws=-1"], "--draws", "-1", "1", "32"),
    (["-o", "nowhere/picture.png"], "nowhere/picture.png", "-o"),
    (["-o", "."], "-o .", ".png"),
    (["-o", "picture.txt"], "-o picture.txt", ".png"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [(arguments, facts) for arguments, *facts in REFUSALS],
    ids=[str(arguments) for arguments, *_ in REFUSALS],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path, arguments: list[str], facts: list[str]
) -> None:
    done = call(main, "show", "data=digits", *arguments)
    assert_refused(done, *facts)
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_misspelt_choice_is_refused_with_the_nearest_and_all(call: Command, tmp_path: Path) -> None:
    done = call(main, "show", "data=digits", "augmentation=cutmixx")
    assert_refused(done, "augmentation=cutmixx", "cutmix", "color_jitter")
    # Among all, and once more.
    assert len(re.findall(r"\bcutmix\b", done.stderr)) == 2
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep", "show", "--help"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert "augmentation=cutmix" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "matplotlib", "hydra"}
