"""The picture that `python -m resnet_sweep.show` draws."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from matplotlib.image import imread
from processes import clean_environment

from resnet_sweep import show
from resnet_sweep.augmentation import MixUp, RandomHorizontalFlip
from resnet_sweep.augmentation.picture import GAP, IMAGE, MARGIN, Row, augment, captions, draw_grid


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
    assert captions(torch.tensor([2, 0]), classes) == [["rose"], ["apple"]]
    shares = torch.tensor(
        [[0.62, 0.0, 0.38], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.0, 0.002, 0.998]]
    )
    assert captions(shares, classes) == [
        ["apple 0.62 /", "rose 0.38"], ["bee 0.50 /", "rose 0.30"], ["bee"], ["rose"]
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_every_image_is_in_the_picture_pixel_by_pixel(
    size: tuple[int, int], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randint(256, (2, 3, 3, *size), dtype=torch.uint8, generator=generator)
    names = [["one"], ["two", "lines"], ["three"]]
    path = tmp_path / "picture.png"
    path.write_bytes(draw_grid([Row("before", before, names), Row("after", after.float(), names)]))
    picture = pixels(path)
    for image in (*before, *after):
        assert places(picture, image, IMAGE // size[1]) == 1


def test_rows_are_the_images_before_and_draws_that_differ() -> None:
    images = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(6)
    classes = list("abcdef")
    operations = [RandomHorizontalFlip(), MixUp(num_classes=6)]
    rows = augment(operations, images, labels, classes, draws=3, seed=1)
    again = augment(operations, images, labels, classes, draws=3, seed=1)
    other = augment(operations, images, labels, classes, draws=3, seed=2)
    assert [row.title for row in rows] == ["before", "draw 1", "draw 2", "draw 3"]
    assert torch.equal(rows[0].images, images)
    assert rows[0].captions == [[name] for name in classes]
    assert all(torch.equal(one.images, two.images) for one, two in zip(rows, again, strict=True))
    different = torch.stack([row.images for row in rows[1:] + other[1:]]).unique(dim=0)
    assert len(different) == 6


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: its exit status, and what it prints and complains."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["show", *arguments])
        status = 0
        try:
            show.main()
        except SystemExit as leaving:
            status = leaving.code
        return status, *capsys.readouterr()

    return run


def test_the_command_draws_the_same_picture_every_time(
    shown, command: Command, tmp_path: Path
) -> None:
    arguments = ("data=digits", "augmentation=cutmix", "--images", "3", "--draws", "2")
    assert shown(*arguments) == (0, "augmentation_cutmix.png\n", "")
    done = command("-o", "again.png", *arguments, module="resnet_sweep.show")
    assert (done.returncode, done.stdout) == (0, "again.png\n"), done.stderr
    # Options may stand between overrides.
    assert shown(*arguments, "-o", "other.png", "seed=1") == (0, "other.png\n", "")
    assert {path.name for path in tmp_path.iterdir()} == {
        "augmentation_cutmix.png", "again.png", "other.png"
    }  # fmt: skip
    picture = (tmp_path / "augmentation_cutmix.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "again.png").read_bytes() == picture
    assert (tmp_path / "other.png").read_bytes() != picture


def test_several_choices_name_the_picture_by_what_they_are(shown) -> None:
    status, printed, _ = shown("data=digits", "augmentation=[cutout,mixup]", "--images=1")
    assert (status, printed) == (0, "augmentation_cutout+mixup.png\n")


def test_the_first_row_is_of_real_training_images(
    shown, tmp_path: Path, cifar100_root: Path
) -> None:
    status, _, complaint = shown("--images=2", "-o", "here.png", f"data.root={cifar100_root}")
    assert status == 0, complaint
    zoom = IMAGE // 32
    first = pixels(tmp_path / "here.png")[GAP::zoom, MARGIN::zoom][:32, :32].transpose(2, 0, 1)
    train = np.load(cifar100_root / "cifar100" / "train_images.npy", mmap_mode="r")
    assert (train == first).all((1, 2, 3)).any()


REFUSALS = [
    (["augmentation=cutmixx"], "there is no augmentation=cutmixx: did you mean cutmix?"),
    (["augmentation=mixup", "augmentation.mixup.alpha=0"], "alpha must be a number above 0"),
    (["augmentation=null"], "augmentation=null chooses nothing: "),
    (["augmentation.cutout.size=4"], "augmentation.cutout isn't a setting"),
    (["optim.lr=-1"], "optim.lr must be a number above 0, but is -1"),
    (["optim.lr=1,2"], "optim.lr"),
    (["optim.lr=[1,2"], "can't be read as an override"),
    (["--images=0"], "--images must be a whole number from 1 to 32, but is 0"),
    (["--images=33"], "--images must be a whole number from 1 to 32, but is 33"),
    (
        ["data.limit_train=4", "trainer.batch_size=4"],
        "--images=8 is more than the 4 training images",
    ),
    (["--draws=-1"], "--draws must be a whole number from 1 to 32, but is -1"),
    (["-o", "nowhere/picture.png"], "nowhere/picture.png can't be written"),
    (["-o", "."], "isn't the name of a picture"),
    (["-o", "picture.txt"], "isn't the name of a picture"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), REFUSALS, ids=[str(each[0]) for each in REFUSALS]
)
def test_a_wrong_request_gets_one_sentence_and_leaves_nothing(
    shown, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    status, printed, complaint = shown("data=digits", *arguments)
    assert (status, printed) == (2, "")
    assert sentence in complaint
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep.show", "--help"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert "augmentation=cutmix" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "matplotlib", "hydra"}
