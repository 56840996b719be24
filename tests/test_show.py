"""The subcommand `show`, which draws augmented images."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from matplotlib.image import imread
from processes import assert_refused, run_and_list_imports

from resnet_sweep.augmentation import MixUp, RandomHorizontalFlip
from resnet_sweep.augmentation.preview import augment, captions, image_row
from resnet_sweep.cli import main
from resnet_sweep.figures import GAP, IMAGE, MARGIN, draw_rows


def pixels(path: Path) -> np.ndarray:
    """Return the colors of a picture, (H, W, 3), uint8."""
    return np.rint(imread(path) * 255).astype(np.uint8)[..., :3]


def occurrences(picture: np.ndarray, image: torch.Tensor, zoom: int) -> int:
    """Return how often a picture contains an enlarged image, compared pixel by pixel."""
    large = image.permute(1, 2, 0).numpy().repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width = large.shape[:2]
    rows, columns = (picture[: -height + 1, : -width + 1] == large[0, 0]).all(-1).nonzero()
    return sum(
        np.array_equal(picture[row : row + height, column : column + width], large)
        for row, column in zip(rows, columns, strict=True)
    )


def test_a_mixed_label_is_shown_by_its_two_largest_shares() -> None:
    classes = ["apple", "bee", "rose"]
    assert captions(torch.tensor([2, 0]), classes) == ["rose", "apple"]
    shares = torch.tensor(
        [[0.62, 0.0, 0.38], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.0, 0.002, 0.998]]
    )
    assert captions(shares, classes) == [
        "apple 0.62 /\nrose 0.38",
        "bee 0.50 /\nrose 0.30",
        "bee",
        "rose",
    ]


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_picture_contains_the_pixels_of_every_image(
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
    # The three images are drawn in one row, and in two rows of at most two.
    for columns in (None, 2):
        path.write_bytes(draw_rows(rows, "a title", columns))
        picture = pixels(path)
        for image in (*before, *after):
            assert occurrences(picture, image, IMAGE // size[1]) == 1


def test_the_original_images_are_followed_by_different_draws() -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(6)
    classes = list("abcdef")
    operations = [RandomHorizontalFlip(), MixUp(num_classes=6)]
    rows = augment(operations, (images, labels), classes, draws=3, seed=1)
    repeated = augment(operations, (images, labels), classes, draws=3, seed=1)
    other = augment(operations, (images, labels), classes, draws=3, seed=2)
    assert [row.title for row in rows] == ["before", "draw 1", "draw 2", "draw 3"]
    assert np.array_equal(rows[0].images, images.permute(0, 2, 3, 1))
    assert rows[0].captions == classes
    assert all(
        np.array_equal(one.images, two.images) for one, two in zip(rows, repeated, strict=True)
    )
    different = np.unique([row.images for row in rows[1:] + other[1:]], axis=0)
    assert len(different) == 6


def output(result: subprocess.CompletedProcess) -> tuple[int, str, str]:
    """Return the exit status, the standard output and the standard error of a command."""
    return result.returncode, result.stdout, result.stderr


def test_the_same_command_draws_the_same_picture(
    call: Command, command: Command, tmp_path: Path
) -> None:
    arguments = ("data=digits", "augmentation=cutmix", "--images", "2", "--draws", "1")
    assert output(call(main, "show", *arguments)) == (0, "augmentation_cutmix.png\n", "")
    result = command("show", "-o", "again.png", *arguments)
    assert (result.returncode, result.stdout) == (0, "again.png\n"), result.stderr
    # An option may come between overrides.
    result = call(main, "show", *arguments, "-o", "other.png", "seed=1")
    assert output(result) == (0, "other.png\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "augmentation_cutmix.png",
        "again.png",
        "other.png",
    }
    picture = (tmp_path / "augmentation_cutmix.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "again.png").read_bytes() == picture
    assert (tmp_path / "other.png").read_bytes() != picture


def test_an_augmentation_of_the_users_own_config_files_is_drawn(
    call: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "augmentation").mkdir(parents=True)
    content = "random_flip: {_target_: resnet_sweep.augmentation.RandomHorizontalFlip}\n"
    (tmp_path / "mine" / "augmentation" / "flip.yaml").write_text(content)
    arguments = ("show", "--config-dir", "mine", "data=digits", "--images=1")
    result = call(main, *arguments, "augmentation=flip")
    assert output(result) == (0, "augmentation_flip.png\n", "")
    assert_refused(call(main, *arguments, "augmentation=flop"), "augmentation=flop", "flip")


def test_the_file_name_of_the_picture_has_all_chosen_augmentations(call: Command) -> None:
    result = call(main, "show", "data=digits", "augmentation=[cutout,mixup]", "--images=1")
    assert output(result) == (0, "augmentation_cutout+mixup.png\n", "")


def test_the_first_row_has_images_of_the_training_set(
    call: Command, tmp_path: Path, cifar100_root: Path
) -> None:
    result = call(main, "show", "--images=2", "-o", "here.png", f"data.root={cifar100_root}")
    assert result.returncode == 0, result.stderr
    zoom = IMAGE // 32
    first = pixels(tmp_path / "here.png")[GAP::zoom, MARGIN::zoom][:32, :32].transpose(2, 0, 1)
    train = np.load(cifar100_root / "cifar100" / "train_images.npy", mmap_mode="r")
    assert (train == first).all((1, 2, 3)).any()


# The arguments of a command, and the facts that its error message names.
REFUSALS = [
    (["augmentation=mixup", "augmentation.mixup.alpha=-3"], "augmentation.mixup.alpha", "0", "-3"),
    (["augmentation=null"], "augmentation=null", "color_jitter", "cutmix"),
    (
        ["augmentation.cutout.size=4"],
        "augmentation.cutout",
        "augmentation.random_crop",
        "augmentation.random_flip",
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
]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [(arguments, facts) for arguments, *facts in REFUSALS],
    ids=[str(arguments) for arguments, *_ in REFUSALS],
)
def test_invalid_arguments_are_refused_and_leave_no_files(
    call: Command, tmp_path: Path, arguments: list[str], facts: list[str]
) -> None:
    result = call(main, "show", "data=digits", *arguments)
    assert_refused(result, *facts)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_misspelled_choice_is_refused_with_the_most_similar_one_and_a_list(
    call: Command, tmp_path: Path
) -> None:
    result = call(main, "show", "data=digits", "augmentation=cutmixx")
    assert_refused(result, "augmentation=cutmixx", "cutmix", "color_jitter")
    # The message has `cutmix` in the list and as the suggestion.
    assert len(re.findall(r"\bcutmix\b", result.stderr)) == 2
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_help_imports_neither_torch_nor_hydra(tmp_path: Path) -> None:
    result, imported = run_and_list_imports(tmp_path, "show", "--help")
    assert result.returncode == 0
    assert "augmentation=cutmix" in result.stdout
    assert not imported & {"torch", "torchvision", "matplotlib", "hydra"}
