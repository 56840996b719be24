"""Datasets in the files of people: each format is read, converted once, and checked."""

import gzip
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from PIL import Image
from scipy.io import savemat
from small_run import StopAt, assert_same_bits, config, open_run, train
from torchvision import datasets
from torchvision.transforms.v2 import functional

from resnet_sweep.__main__ import main
from resnet_sweep.config.plan import plan_run
from resnet_sweep.data import (
    CIFAR10,
    CIFAR100,
    NPZ,
    SVHN,
    Dataset,
    FashionMNIST,
    HuggingFace,
    ImageFolder,
    Split,
    TinyImageNet,
    image_folder,
)
from resnet_sweep.data import dataset as dataset_module
from resnet_sweep.data.array_cache import CachedDataset, Source, cached_arrays
from resnet_sweep.data.dataset import Batches
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.training import trainer as trainer_module
from resnet_sweep.training.signals import Interrupted, StopSignal

SHORT = (
    "model=resnet8v2",
    "model.widths=[4,8]",
    "model.blocks=[1,1]",
    "model.strides=[2,2]",
    "trainer.epochs=1",
    "trainer.max_steps=2",
    "trainer.batch_size=4",
    "trainer.device=cpu",
    "trainer.threads=1",
    "logger=csv",
    "hydra.run.dir=run",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the cache, which doesn't exist yet."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RESNET_SWEEP_CACHE", str(folder))
    return folder


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def write_folders(root: Path, parts: tuple[str, ...] = ("train", "val"), count: int = 6) -> Path:
    """Write `count` PNG files of 12x8 pixels for each of two classes."""
    for number, part in enumerate(parts):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                seed = 100 * number + 10 * label + index
                save(root / part / name / f"{index}.png", pixels(12, 8, 3, seed=seed))
    return root


def images_of(split: Split) -> np.ndarray:
    return split.images[split.indices]


def assert_refused(data: CachedDataset, *facts: str) -> None:
    """Assert that loading raises a ConfigError whose message contains all facts."""
    with pytest.raises(ConfigError) as refusal:
        data.load(seed=0)
    message = str(refusal.value)
    for fact in facts:
        assert fact in message
    assert "\n" not in message


def assert_trains(call: Command, *overrides: str, channels: int = 3) -> None:
    """Assert that two steps are trained from the command line, and that `evaluate` works."""
    done = call(main, *overrides, *SHORT)
    assert done.returncode == 0, done.stderr
    assert Record.read(Path("run")).state == "finished"
    evaluated = call(main, "evaluate", "run")
    assert evaluated.returncode == 0, evaluated.stderr
    weights = torch.load("run/checkpoints/last_model.pth", weights_only=True)["model"]
    assert weights["stem.weight"].shape[1] == channels


class TestImageFolder:
    """A folder of images for each class."""

    def test_it_trains(self, call: Command, tmp_path: Path) -> None:
        write_folders(tmp_path / "data")
        assert_trains(call, "data=image_folder", "data.root=data")
        for command in ("features", "show"):
            options = ("run",) if command == "features" else ("data=image_folder", "--images=2")
            more = () if command == "features" else ("data.root=data", "trainer.batch_size=4")
            done = call(main, command, *options, *more)
            assert done.returncode == 0, done.stderr

    def test_images_classes_and_order_are_those_of_torchvision(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data", ("train", "val", "test"))
        save(root / "train" / "cat" / "more" / "0.jpeg", pixels(12, 8, 3))
        save(root / "train" / "ant" / "B.JPG", pixels(12, 8, 3))
        for part in ("val", "test"):
            save(root / part / "ant" / "b.png", pixels(12, 8, 3))
        (root / "train" / "cat" / ".DS_Store").write_bytes(b"system")
        (root / "notes.txt").write_text("text")
        dataset = ImageFolder(root=str(root)).load(seed=0)
        splits = {"train": dataset.train, "val": dataset.validation, "test": dataset.test}
        for part, split in splits.items():
            theirs = datasets.ImageFolder(str(root / part))
            assert dataset.classes == theirs.classes
            assert split.labels[split.indices].tolist() == theirs.targets
            for ours, (image, _) in zip(images_of(split), theirs, strict=True):
                assert np.array_equal(ours, np.asarray(image).transpose(2, 0, 1))

    def test_mean_and_std_are_those_of_the_training_images(self, tmp_path: Path) -> None:
        root = str(write_folders(tmp_path / "data"))
        dataset = ImageFolder(root=root).load(seed=0)
        values = images_of(dataset.train) / 255
        assert dataset.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=1e-12)
        assert dataset.std == pytest.approx(values.std((0, 2, 3)).tolist(), abs=1e-12)
        given = ImageFolder(root=root, mean=[0.1, 0.2, 0.3], std=[1, 2, 3]).load(seed=0)
        assert (given.mean, given.std) == ([0.1, 0.2, 0.3], [1, 2, 3])

    def test_the_standard_deviation_of_equal_pixels_is_not_zero(self, tmp_path: Path) -> None:
        for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
            save(tmp_path / "data" / name, np.full((4, 4), 7, np.uint8))
        assert ImageFolder(root=str(tmp_path / "data")).load(seed=0).std == [1.0]

    @pytest.mark.parametrize("folder", [".", "train"])
    def test_without_test_images_a_fixed_fraction_of_each_class_is_chosen(
        self, tmp_path: Path, folder: str
    ) -> None:
        root = str(write_folders(tmp_path / "data", (folder,), count=10))
        first = ImageFolder(root=root).load(seed=0)
        assert np.bincount(first.test.labels[first.test.indices]).tolist() == [2, 2]
        assert not {*first.train.indices} & {*first.test.indices}
        assert len(first.train) == 16
        again, other = (ImageFolder(root=root, split_seed=seed).load(seed=5) for seed in (0, 1))
        assert np.array_equal(first.test.indices, again.test.indices)
        assert not np.array_equal(first.test.indices, other.test.indices)
        half = ImageFolder(root=root, test_fraction=0.5).load(seed=0)
        assert len(half.test) == 10
        # The same images, in the same entry of the cache.
        assert half.train.images.filename == first.train.images.filename

    def test_limits_and_holdout(self, tmp_path: Path) -> None:
        root = str(write_folders(tmp_path / "data"))
        dataset = ImageFolder(root=root, holdout=4, limit_train=6, limit_test=8).load(seed=0)
        assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (6, 4, 8)
        root = str(write_folders(tmp_path / "three", ("train", "val", "test")))
        dataset = ImageFolder(root=root, limit_test=8).load(seed=0)
        assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (12, 8, 8)
        assert_refused(ImageFolder(root=root, holdout=4), "data.holdout=4")

    @pytest.mark.parametrize(("size", "shape"), [(6, (6, 6)), ([6, 9], (6, 9))])
    def test_images_of_several_sizes_are_resized(
        self, tmp_path: Path, size: int | list[int], shape: tuple[int, int]
    ) -> None:
        root = write_folders(tmp_path / "data")
        save(root / "train" / "dog" / "9.png", pixels(50, 40, 3))
        assert_refused(
            ImageFolder(root=str(root)), "train/cat/0.png", "8x12", "9.png", "40x50", "data.size"
        )
        dataset = ImageFolder(root=str(root), size=size).load(seed=0)
        assert dataset.train.images.shape[2:] == shape

    def test_resizing_keeps_the_center_and_agrees_with_torchvision(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data")
        wide = pixels(40, 60, 3)
        save(root / "train" / "dog" / "9.png", wide)
        dataset = ImageFolder(root=str(root), size=20).load(seed=0)
        theirs = functional.resize(
            torch.from_numpy(wide[:, 10:50].transpose(2, 0, 1).copy()), [20, 20], antialias=True
        )
        ours = torch.from_numpy(images_of(dataset.train)[-1])
        # At the edges, our pixels also depend on the part of the image that is cropped away.
        assert (ours.int() - theirs.int())[..., 1:-1].abs().max() <= 1

    def test_gray_images_have_one_channel(self, call: Command, tmp_path: Path) -> None:
        for name in ("a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"):
            save(tmp_path / "data" / name, pixels(12, 8))
        assert_trains(call, "data=image_folder", "data.root=data", channels=1)
        assert call(main, "features", "run").returncode == 0
        names = {path.name for path in Path("run/features").iterdir()}
        assert {"filters.png", "grad_cam.png", "augmentation.png"} <= names

    def test_gray_and_color_are_mixed_only_if_asked(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data")
        gray = pixels(12, 8)
        save(root / "train" / "dog" / "9.png", gray)
        assert_refused(ImageFolder(root=str(root)), "0.png", "9.png", "data.channels=3")
        colored = images_of(ImageFolder(root=str(root), channels=3).load(seed=0).train)
        assert np.array_equal(colored[-1], np.broadcast_to(gray, (3, 12, 8)))
        reduced = images_of(ImageFolder(root=str(root), channels=1).load(seed=0).train)
        assert np.array_equal(reduced[-1, 0], gray)
        # The weights of ITU-R BT.601.
        expected = np.tensordot([0.299, 0.587, 0.114], colored[0].astype(float), 1)
        assert np.abs(reduced[0, 0] - expected).max() <= 1

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [("RGBA", "png"), ("P", "png"), ("CMYK", "tif"), ("YCbCr", "jpg"), ("RGB", "webp")],
    )
    def test_color_modes_become_rgb(self, tmp_path: Path, mode: str, suffix: str) -> None:
        paths = [
            save(
                tmp_path / "data" / f"{name}.{suffix}",
                Image.fromarray(pixels(9, 9, 3)).convert(mode),
            )
            for name in ("a/0", "a/1", "b/0", "b/1")
        ]
        dataset = ImageFolder(root=str(tmp_path / "data")).load(seed=0)
        expected = np.asarray(Image.open(paths[0]).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(dataset.train.images[0], expected)

    def test_16_bits_are_reduced_to_the_upper_8(self, tmp_path: Path) -> None:
        deep = np.random.RandomState(0).randint(0, 2**16, (9, 9)).astype(np.uint16)
        for name in ("a/0", "a/1", "b/0", "b/1"):
            save(tmp_path / "data" / f"{name}.png", deep)
        dataset = ImageFolder(root=str(tmp_path / "data")).load(seed=0)
        assert np.array_equal(dataset.train.images[0, 0], deep // 256)

    def test_the_orientation_of_a_camera_is_applied(self, tmp_path: Path) -> None:
        turned = Image.Exif()
        turned[0x0112] = 6
        for name in ("a/0", "a/1", "b/0", "b/1"):
            save(tmp_path / "data" / f"{name}.jpg", pixels(16, 24, 3), exif=turned, quality=95)
        dataset = ImageFolder(root=str(tmp_path / "data")).load(seed=0)
        stored = np.asarray(Image.open(tmp_path / "data" / "a" / "0.jpg"))
        assert np.array_equal(dataset.train.images[0], np.rot90(stored, -1).transpose(2, 0, 1))

    def test_more_than_256_classes(self, tmp_path: Path) -> None:
        for label in range(300):
            for part in ("train", "test"):
                save(tmp_path / "data" / part / f"{label:03}" / "0.png", pixels(4, 4, seed=label))
        dataset = ImageFolder(root=str(tmp_path / "data"), limit_train=290).load(seed=0)
        assert dataset.test.labels[dataset.test.indices].tolist() == [*range(300)]
        settings = config(
            data={"_target_": "resnet_sweep.data.ImageFolder", "root": str(tmp_path / "data")},
            trainer__epochs=1,
        )
        trainer = train(plan_run(settings), tmp_path / "run")
        assert trainer.model.classifier.out_features == 300
        assert trainer.rows[0]["val_loss"] < 30

    REFUSED: ClassVar[dict[str, tuple[Callable[[Path], object], tuple[str, ...]]]] = {
        "not an image": (lambda root: (root / "train/cat/9.txt").write_text("x"), ("9.txt",)),
        "no image": (lambda root: (root / "train/cat/9.png").write_text("x"), ("9.png", "JPEG")),
        # Pillow would start Ghostscript to decode it.
        "other format": (
            lambda root: save(root / "train/cat/9.png", pixels(12, 8, 3), format="EPS"),
            ("9.png", "JPEG"),
        ),
        "empty file": (lambda root: (root / "val/cat/9.png").touch(), ("9.png",)),
        "truncated": (
            lambda root: os.truncate(save(root / "val/cat/9.jpg", pixels(12, 8, 3)), 400),
            ("9.jpg",),
        ),
        "32 bits": (
            lambda root: save(root / "val/cat/9.tif", np.zeros((12, 8), np.int32)),
            ("9.tif",),
        ),
        "broken link": (lambda root: (root / "val/cat/9.png").symlink_to("nothing"), ("9.png",)),
        "empty class": (lambda root: (root / "val/ant").mkdir(), ("val/ant",)),
        "new class": (lambda root: save(root / "val/ant/0.png", pixels(12, 8, 3)), ("val", "ant")),
        "missing class": (lambda root: shutil.rmtree(root / "val/cat"), ("cat", "train", "val")),
        "image beside classes": (
            lambda root: save(root / "train/9.png", pixels(12, 8, 3)),
            ("train", "9.png"),
        ),
        "no classes": (
            lambda root: (shutil.rmtree(root / "val"), (root / "val").mkdir()),
            ("val",),
        ),
        "other names": (lambda root: (root / "val").rename(root / "valid"), ("train", "valid")),
        "one class": (
            lambda root: [shutil.rmtree(root / part / "cat") for part in ("train", "val")],
            ("dog",),
        ),
        "a file": (lambda root: (shutil.rmtree(root), root.touch()), ("data.root",)),
        "nothing": (shutil.rmtree, ("data.root",)),
    }

    @pytest.mark.parametrize("case", REFUSED)
    def test_odd_files_are_named(self, case: str, tmp_path: Path, cache: Path) -> None:
        root = write_folders(tmp_path / "data")
        change, facts = self.REFUSED[case]
        change(root)
        assert_refused(ImageFolder(root=str(root)), *facts)
        assert not cache.exists() or not any(cache.iterdir())

    def test_a_wrong_request_is_refused_with_status_2(self, call: Command, tmp_path: Path) -> None:
        write_folders(tmp_path / "data")
        for overrides, fact in {
            (): "data.root",
            ("data.root=nothing",): "nothing",
            ("data.root=data", "data.size=[1,2,3]"): "data.size=[1, 2, 3]",
            ("data.root=data", "data.size=0"): "data.size",
            ("data.root=data", "data.channels=2"): "data.channels",
            ("data.root=data", "data.mean=[0.5]"): "data.mean=[0.5]",
            ("data.root=data", "data.test_fraction=1"): "data.test_fraction",
        }.items():
            done = call(main, "data=image_folder", *overrides, *SHORT)
            assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
            assert fact in done.stderr
            assert not (tmp_path / "run").exists()


class TestCache:
    """The arrays that images are converted to."""

    def test_images_are_decoded_once(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = write_folders(tmp_path / "data")
        first = ImageFolder(root=str(root)).load(seed=0)
        assert isinstance(first.train.images, np.memmap)
        monkeypatch.setattr(Image, "open", None)
        again = ImageFolder(root=str(root)).load(seed=1)
        assert again.fingerprint == first.fingerprint
        assert len([*cache.iterdir()]) == 1

    def test_a_sweep_lists_the_files_once_for_all_seeds(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_folders(tmp_path / "data")
        listed = []
        original = image_folder.file_states
        monkeypatch.setattr(
            image_folder, "file_states", lambda *args: listed.append(1) or original(*args)
        )
        single = [text for text in SHORT if not text.startswith("hydra.run.dir")]
        grid = ("--multirun", "data=image_folder", "data.root=data", *single, "seed=0,1,2")
        result = call(main, *grid, "optim.lr=0.1,0.2", "dry_run=true")
        assert result.returncode == 0, result.stderr
        assert len(listed) == 1

    def test_a_changed_added_or_renamed_file_is_noticed(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data")
        fingerprints = [ImageFolder(root=str(root)).load(seed=0).fingerprint]
        path = root / "train" / "cat" / "0.png"
        for change in (
            lambda: save(path, pixels(12, 8, 3, seed=77)),
            lambda: save(path.with_name("7.png"), pixels(12, 8, 3, seed=78)),
            lambda: path.rename(path.with_name("9.png")),
            lambda: path.with_name("9.png").rename(root / "train" / "dog" / "9.png"),
        ):
            change()
            fingerprints.append(ImageFolder(root=str(root)).load(seed=0).fingerprint)
        assert len({*fingerprints}) == len(fingerprints)

    def test_the_fingerprint_depends_on_pixels_labels_and_parts_only(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data")
        expected = ImageFolder(root=str(root)).load(seed=0).fingerprint
        copy = tmp_path / "copy"
        for path in root.rglob("*.png"):
            save(copy / path.relative_to(root).with_suffix(".bmp"), Image.open(path))
        assert ImageFolder(root=str(copy)).load(seed=0).fingerprint == expected
        (copy / "val").rename(copy / "test")
        assert ImageFolder(root=str(copy)).load(seed=0).fingerprint != expected

    @pytest.mark.parametrize("name", ["images.npy", "labels.npy", "moments.npy", "header.json"])
    def test_a_damaged_entry_is_written_again(self, tmp_path: Path, cache: Path, name: str) -> None:
        root = write_folders(tmp_path / "data")
        first = ImageFolder(root=str(root)).load(seed=0)
        (entry,) = cache.iterdir()
        content = (entry / name).read_bytes()
        for damaged in (b"", content[:-1], content[:-2] + b"\xff\xff"):
            (entry / name).write_bytes(damaged)
            again = ImageFolder(root=str(root)).load(seed=0)
            assert again.fingerprint == first.fingerprint
            assert (entry / name).read_bytes()[:200] == content[:200] or name == "header.json"
        (entry / name).unlink()
        assert ImageFolder(root=str(root)).load(seed=0).fingerprint == first.fingerprint

    def test_leftovers_of_a_killed_process_are_removed(self, tmp_path: Path, cache: Path) -> None:
        root = write_folders(tmp_path / "data")
        ImageFolder(root=str(root)).load(seed=0)
        (entry,) = cache.iterdir()
        shutil.rmtree(entry)
        leftover = cache / f".{entry.name}-abc"
        leftover.mkdir()
        (leftover / "images.npy").write_bytes(b"unfinished")
        ImageFolder(root=str(root)).load(seed=0)
        assert [path.name for path in cache.iterdir()] == [entry.name]

    def test_several_processes_convert_once(self, tmp_path: Path, cache: Path) -> None:
        root = write_folders(tmp_path / "data", count=30)
        script = (
            "import sys, resnet_sweep.data.image_files as files\n"
            "from resnet_sweep.data import ImageFolder\n"
            "decode, count = files._decode, []\n"
            "files._decode = lambda *given: (count.append(1), decode(*given))[1]\n"
            "print(ImageFolder(root=sys.argv[1]).load(0).fingerprint, len(count))\n"
        )
        command = [sys.executable, "-c", script, str(root)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        outputs = [process.communicate()[0].split() for process in started]
        assert len({fingerprint for fingerprint, _ in outputs}) == 1
        assert sorted(int(count) for _, count in outputs) == [0, 0, 120]
        assert len([*cache.iterdir()]) == 1

    def test_a_read_only_data_folder_can_be_used(self, tmp_path: Path) -> None:
        root = write_folders(tmp_path / "data")
        before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
        ImageFolder(root=str(root)).load(seed=0)
        assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before

    def test_a_cache_that_can_not_be_written_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = write_folders(tmp_path / "data")
        (tmp_path / "file").touch()
        monkeypatch.setenv("RESNET_SWEEP_CACHE", str(tmp_path / "file" / "cache"))
        assert_refused(ImageFolder(root=str(root)), "file/cache", "RESNET_SWEEP_CACHE")

    def test_a_full_disk_is_reported(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        root = write_folders(tmp_path / "data")
        monkeypatch.setattr(os, "fsync", full)
        assert_refused(ImageFolder(root=str(root)), "No space left", str(cache))
        assert not cache.exists()

    def test_the_default_is_in_the_users_cache_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("RESNET_SWEEP_CACHE")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        ImageFolder(root=str(write_folders(tmp_path / "data"))).load(seed=0)
        assert [*(tmp_path / "home/.cache/resnet_sweep/arrays").glob("image_folder-*")]

    def test_conversion_holds_a_few_images_in_memory(self, tmp_path: Path) -> None:
        def blocks() -> Iterator[np.ndarray]:
            for number in range(50):
                yield np.full((20, 3, 200, 200), number, np.uint8)

        def read() -> Source:
            labels = np.arange(1000) % 2
            return Source((3, 200, 200), labels, {"all": 1000}, ["a", "b"], blocks())

        tracemalloc.start()
        try:
            arrays = cached_arrays("large", tmp_path, [], read)
            batches = Batches(arrays.parts()["all"], torch.device("cpu"))
            images, _ = batches.take(torch.tensor([0, 999]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert arrays.images.nbytes == 120_000_000
        assert peak < 30_000_000
        assert images[:, 0, 0, 0].tolist() == [0, 49]

    def test_the_folder_of_the_data_does_not_change_the_signature(self, tmp_path: Path) -> None:
        signatures = set()
        for name in ("one", "other"):
            root = str(write_folders(tmp_path / name))
            data = {"_target_": "resnet_sweep.data.ImageFolder", "root": root}
            signatures.add(plan_run(config(data=data, trainer__batch_size=4)).signature)
        assert len(signatures) == 1


class TestPublishedDatasets:
    """CIFAR-10, SVHN, Fashion-MNIST and Tiny ImageNet, in small files of the published formats."""

    @pytest.fixture
    def cifar10(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
        """Write the files of CIFAR-10, with other checksums, and return their images."""
        folder = tmp_path / "data" / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
        images = {name: pixels(4, 3072, seed=number) for number, name in enumerate(names)}
        contents = {name: {"data": data, "labels": [0, 3, 9, 3]} for name, data in images.items()}
        contents["batches.meta"] = {"label_names": [str(number) for number in range(10)]}
        sums = {}
        for name, content in contents.items():
            (folder / name).write_bytes(pickle.dumps(content))
            sums[name] = md5((folder / name).read_bytes()).hexdigest()
        for attribute, listed in (("train_list", names[:5]), ("test_list", names[5:])):
            monkeypatch.setattr(
                datasets.CIFAR10, attribute, [[name, sums[name]] for name in listed]
            )
        meta = datasets.CIFAR10.meta | {"md5": sums["batches.meta"]}
        monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
        return images

    def test_cifar10(self, cifar10: dict[str, np.ndarray], call: Command, tmp_path: Path) -> None:
        dataset = CIFAR10(root=str(tmp_path / "data")).load(seed=0)
        expected = np.concatenate([*cifar10.values()]).reshape(-1, 3, 32, 32)
        assert np.array_equal(images_of(dataset.train), expected[:20])
        assert np.array_equal(images_of(dataset.test), expected[20:])
        assert dataset.test.labels[dataset.test.indices].tolist() == [0, 3, 9, 3]
        assert dataset.classes[3] == "cat"
        assert_trains(call, "data=cifar10", "data.root=data")

    def test_changed_pickles_are_not_read(
        self, cifar10: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_3"
        path.write_bytes(pickle.dumps(Hostile()))
        assert_refused(CIFAR10(root=str(tmp_path / "data")), "CIFAR-10", str(tmp_path / "data"))

    @pytest.fixture
    def svhn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
        """Write the files of SVHN, with other checksums, and return their images."""
        images, listed = {}, dict(datasets.SVHN.split_list)
        (tmp_path / "data").mkdir()
        for part in ("train", "test"):
            path = tmp_path / "data" / f"{part}_32x32.mat"
            images[part] = pixels(32, 32, 3, 12)
            labels = np.array([[10, 1, 2, 9] * 3], dtype=np.uint8).T
            savemat(path, {"X": images[part], "y": labels})
            listed[part] = [*listed[part][:2], md5(path.read_bytes()).hexdigest()]
        monkeypatch.setattr(datasets.SVHN, "split_list", listed)
        return images

    def test_svhn(self, svhn: dict[str, np.ndarray], call: Command, tmp_path: Path) -> None:
        dataset = SVHN(root=str(tmp_path / "data")).load(seed=0)
        assert np.array_equal(images_of(dataset.train), svhn["train"].transpose(3, 2, 0, 1))
        # The files have the label 10 for the digit 0.
        assert dataset.train.labels[dataset.train.indices].tolist() == [0, 1, 2, 9] * 3
        assert_trains(call, "data=svhn", "data.root=data")

    @pytest.mark.parametrize("compressed", [True, False])
    def test_fashion_mnist(self, call: Command, tmp_path: Path, compressed: bool) -> None:
        folder = tmp_path / "data" / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        images = pixels(12, 28, 28)
        labels = np.array([0, 9, 5, 5] * 3, dtype=np.uint8)
        # The format IDX: type and number of dimensions, the dimensions, and the values.
        for part in ("train", "t10k"):
            for kind, array in (("images", images), ("labels", labels)):
                header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
                path = folder / f"{part}-{kind}-idx{array.ndim}-ubyte"
                path.write_bytes(header + array.tobytes())
                if compressed:
                    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                    path.unlink()
        dataset = FashionMNIST(root=str(tmp_path / "data")).load(seed=0)
        assert np.array_equal(images_of(dataset.train)[:, 0], images)
        assert dataset.test.labels[dataset.test.indices].tolist() == labels.tolist()
        assert dataset.classes[9] == "Ankle boot"
        if compressed:
            assert_trains(call, "data=fashion_mnist", "data.root=data", channels=1)
        path = next(folder.glob("t10k-images*"))
        path.write_bytes(path.read_bytes()[:-5])
        assert_refused(FashionMNIST(root=str(tmp_path / "data")), "Fashion-MNIST")

    @pytest.mark.parametrize(
        ("data", "file"),
        [
            (CIFAR10, "cifar-10-batches-py/"),
            (SVHN, "train_32x32.mat"),
            (FashionMNIST, "FashionMNIST/raw/"),
            (TinyImageNet, "tiny-imagenet-200"),
        ],
    )
    def test_missing_files_are_named(
        self, data: type[CachedDataset], file: str, tmp_path: Path
    ) -> None:
        assert_refused(data(root=str(tmp_path / "typo")), "data.root", file)
        assert not (tmp_path / "typo").exists()

    def test_a_failed_download_names_the_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise OSError("no network")

        monkeypatch.setenv("RESNET_SWEEP_DATA", str(tmp_path / "new" / "data"))
        monkeypatch.setattr(datasets, "SVHN", refuse)
        assert_refused(SVHN(), "SVHN", "no network", "train_32x32.mat")
        assert not (tmp_path / "new").exists()

    @pytest.fixture
    def tiny_imagenet(self, tmp_path: Path) -> Path:
        """Write a small Tiny ImageNet."""
        root = tmp_path / "data" / "tiny-imagenet-200"
        lines = []
        for label, name in enumerate(("n02124075", "n01443537", "n09428293")):
            for index in range(4):
                # Some images are gray.
                shape = (64, 64) if index == 1 else (64, 64, 3)
                image = pixels(*shape, seed=10 * label + index)
                save(root / "train" / name / "images" / f"{name}_{index}.JPEG", image)
            (root / "train" / name / f"{name}_boxes.txt").write_text("")
            for index in range(2):
                file = f"val_{2 * label + index}.JPEG"
                save(root / "val" / "images" / file, pixels(64, 64, 3, seed=label))
                lines.append(f"{file}\t{name}\t0\t32\t44\t62\n")
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
        (root / "words.txt").write_text(
            "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n"
            "n02124075\tEgyptian cat\nn09428293\tseashore, coast\n"
        )
        return root

    def test_tiny_imagenet(self, tiny_imagenet: Path, call: Command) -> None:
        dataset = TinyImageNet(root=str(tiny_imagenet.parent)).load(seed=0)
        assert dataset.train.images.shape[1:] == (3, 64, 64)
        assert dataset.classes == ["goldfish", "Egyptian cat", "seashore"]
        assert (len(dataset.train), len(dataset.test)) == (12, 6)
        assert dataset.test.labels[dataset.test.indices].tolist() == [1, 1, 0, 0, 2, 2]
        theirs = Image.open(tiny_imagenet / "train/n01443537/images/n01443537_0.JPEG")
        assert np.array_equal(images_of(dataset.train)[0], np.asarray(theirs).transpose(2, 0, 1))
        assert_trains(call, "data=tiny_imagenet", "data.root=data", "data.size=32")

    @pytest.mark.parametrize(
        ("line", "fact"), [("val_0.JPEG\tn0\t0", "n0"), ("val_9.JPEG\tn01443537", "val_9.JPEG")]
    )
    def test_a_wrong_annotation_is_named(self, tiny_imagenet: Path, line: str, fact: str) -> None:
        with (tiny_imagenet / "val" / "val_annotations.txt").open("a") as file:
            file.write(line + "\n")
        assert_refused(TinyImageNet(root=str(tiny_imagenet.parent)), "line 7", fact)


class Hostile:
    """An object whose pickle raises an error when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was executed",)


class TestNPZ:
    """A file of `numpy.savez`."""

    def write(self, tmp_path: Path, **arrays: np.ndarray) -> NPZ:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return NPZ(file=str(path))

    def arrays(self, *shape: int) -> dict[str, np.ndarray]:
        labels = np.array([0, 1, 2] * 4)
        return {
            f"{part}_{kind}": array
            for seed, part in enumerate(("train", "test"))
            for kind, array in (("images", pixels(12, *shape, seed=seed)), ("labels", labels))
        }

    @pytest.mark.parametrize("shape", [(10, 8), (10, 8, 1), (1, 10, 8), (10, 8, 3), (3, 10, 8)])
    def test_the_layouts_of_images(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        arrays = self.arrays(*shape)
        dataset = self.write(tmp_path, **arrays).load(seed=0)
        images = arrays["train_images"]
        if shape == (10, 8):
            images = images[:, None]
        elif shape[2] in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        assert np.array_equal(images_of(dataset.train), images)
        assert dataset.classes == ["0", "1", "2"]

    def test_it_trains(self, call: Command, tmp_path: Path) -> None:
        self.write(tmp_path, **self.arrays(10, 8))
        assert_trains(call, "data=npz", "data.file=data.npz", channels=1)

    def test_a_file_of_medmnist(self, tmp_path: Path) -> None:
        arrays = self.arrays(28, 28)
        arrays |= {"val_images": pixels(3, 28, 28), "val_labels": np.array([0, 1, 2])}
        labels = {
            name: arrays[name][:, None].astype(np.uint8) for name in arrays if "l" in name[5:]
        }
        dataset = self.write(tmp_path, **arrays | labels).load(seed=0)
        assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [12, 3, 12]
        assert dataset.validation.labels[dataset.validation.indices].tolist() == [0, 1, 2]

    def test_training_images_alone_are_divided(self, tmp_path: Path) -> None:
        arrays = self.arrays(6, 6)
        del arrays["test_images"], arrays["test_labels"]
        dataset = self.write(tmp_path, **arrays, classes=np.array(["a", "b", "c"])).load(seed=0)
        assert (len(dataset.train), len(dataset.test), dataset.classes) == (9, 3, ["a", "b", "c"])

    @pytest.mark.parametrize(
        ("change", "facts"),
        [
            ({"train_images": pixels(12, 6, 6) / 255}, ("train_images", "float64", "uint8")),
            ({"train_images": pixels(12, 6, 6, 4)}, ("train_images", "(12, 6, 6, 4)")),
            ({"train_images": pixels(11, 6, 6)}, ("train_labels", "(12,)", "11")),
            ({"test_images": pixels(12, 6, 7)}, ("(1, 6, 6)", "(1, 6, 7)")),
            ({"train_labels": np.arange(12) / 2}, ("train_labels", "float64")),
            ({"train_labels": np.arange(12) - 1}, ("train_labels", "-1")),
            ({"train_labels": np.array([{}] * 12)}, ("data.npz", "pickle")),
            ({"classes": np.array(["a", "b"])}, ("label 2", "2 classes")),
            ({"classes": np.array(["a", "b", "a"])}, ("classes",)),
            ({"test_labels": None}, ("test_labels",)),
            ({"train_images": None}, ("train_images", "train_labels")),
        ],
    )
    def test_wrong_arrays_are_named(
        self, tmp_path: Path, change: dict[str, np.ndarray | None], facts: tuple[str, ...]
    ) -> None:
        arrays = {k: v for k, v in (self.arrays(6, 6) | change).items() if v is not None}
        assert_refused(self.write(tmp_path, **arrays), "data.npz", *facts)

    def test_a_damaged_or_missing_file_is_named(self, tmp_path: Path) -> None:
        assert_refused(NPZ(), "data.file")
        assert_refused(NPZ(file=str(tmp_path / "nothing.npz")), "nothing.npz")
        data = self.write(tmp_path, **self.arrays(6, 6))
        path = tmp_path / "data.npz"
        content = path.read_bytes()
        for damaged in (b"", b"text", content[:-30], content[:300] + b"x" * 50 + content[350:]):
            path.write_bytes(damaged)
            assert_refused(data, "data.npz")
        np.save(tmp_path / "array.npz", np.arange(3))
        assert_refused(NPZ(file=f"{tmp_path}/array.npz.npy"), "array.npz.npy")


class TestHuggingFace:
    """A dataset of the datasets library."""

    @pytest.fixture
    def library(self) -> ModuleType:
        return pytest.importorskip("datasets")

    def table(self, library: ModuleType, count: int = 6, **columns: object) -> object:
        images = [Image.fromarray(pixels(9, 7, 3, seed=seed)) for seed in range(count)]
        features = {"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog"])}
        rows = {"image": images, "label": [0, 1] * (count // 2)} | columns
        kept = {name: features[name] for name in features if name in rows}
        return library.Dataset.from_dict(rows, library.Features(kept) if len(kept) == 2 else None)

    def test_it_trains_on_a_saved_dataset(
        self, library: ModuleType, call: Command, tmp_path: Path
    ) -> None:
        parts = {
            "train": self.table(library, 8),
            "validation": self.table(library, 4),
            "test": self.table(library, 6),
        }
        library.DatasetDict(parts).save_to_disk(str(tmp_path / "data"))
        dataset = HuggingFace(root=str(tmp_path / "data")).load(seed=0)
        assert dataset.classes == ["cat", "dog"]
        assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [8, 4, 6]
        assert np.array_equal(
            images_of(dataset.train)[3], pixels(9, 7, 3, seed=3).transpose(2, 0, 1)
        )
        assert dataset.train.labels[dataset.train.indices].tolist() == [0, 1] * 4
        assert_trains(call, "data=huggingface", "data.root=data")

    def test_a_single_table_is_divided(self, library: ModuleType, tmp_path: Path) -> None:
        self.table(library, 10).save_to_disk(str(tmp_path / "data"))
        dataset = HuggingFace(root=str(tmp_path / "data"), size=4, channels=1).load(seed=0)
        assert (len(dataset.train), len(dataset.test)) == (8, 2)
        assert dataset.train.images.shape == (10, 1, 4, 4)

    @pytest.mark.parametrize(
        ("labels", "classes"), [(["b", "a"] * 3, ["a", "b"]), ([1, 0] * 3, ["0", "1"])]
    )
    def test_labels_may_be_text_or_numbers(
        self, library: ModuleType, tmp_path: Path, labels: list[object], classes: list[str]
    ) -> None:
        table = self.table(library).remove_columns("label").add_column("kind", labels)
        table.save_to_disk(str(tmp_path / "data"))
        dataset = HuggingFace(root=str(tmp_path / "data"), label_column="kind").load(seed=0)
        assert (dataset.classes, dataset.train.labels.tolist()) == (classes, [1, 0] * 3)

    def test_wrong_requests_are_refused(self, library: ModuleType, tmp_path: Path) -> None:
        self.table(library).save_to_disk(str(tmp_path / "data"))
        root = str(tmp_path / "data")
        assert_refused(HuggingFace(), "data.name", "data.root")
        assert_refused(HuggingFace(name="x", root="y"), "data.name", "data.root")
        assert_refused(HuggingFace(root=str(tmp_path / "nothing")), "nothing")
        assert_refused(HuggingFace(root=root, label_column="class"), "data.label_column", "label")
        assert_refused(HuggingFace(root=root, label_column="image"), "image", "data.label_column")
        self.table(library, label=[0, None] * 3).save_to_disk(str(tmp_path / "other"))
        assert_refused(HuggingFace(root=str(tmp_path / "other")), "label")

    def test_a_damaged_image_is_named(self, library: ModuleType, tmp_path: Path) -> None:
        encoded = [{"bytes": b"text", "path": None}] * 6
        self.table(library, image=encoded).save_to_disk(str(tmp_path / "data"))
        assert_refused(HuggingFace(root=str(tmp_path / "data")), "image 0", "data.root")

    def test_the_library_is_optional(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        assert_refused(HuggingFace(name="x"), "resnet-sweep[huggingface]")


def test_a_run_with_batches_copied_ahead_equals_one_with_resident_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also equals itself after it was stopped and resumed."""
    settings = config(trainer__epochs=2)
    expected = train(plan_run(settings), tmp_path / "resident")
    monkeypatch.setattr(dataset_module, "fits", lambda device, size: False)
    monkeypatch.setattr(trainer_module, "REPORT_SECONDS", 0)
    planned = plan_run(settings)
    trainer = planned.build_trainer()
    assert not trainer.train_batches.resident
    run, stop = open_run(planned, tmp_path / "ahead"), StopSignal()
    with pytest.raises(Interrupted):
        trainer.fit(run, [StopAt(stop, 9)], stop)
    run.close("interrupted")
    assert 0 < trainer.global_step < trainer.total_steps
    assert_same_bits(train(planned, tmp_path / "ahead"), expected)


def test_the_commands_of_the_page_are_valid(call: Command, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "own_data.md").read_text()
    for index, name in enumerate(("train/cat/0", "train/dog/0", "val/cat/0", "val/dog/0")):
        for number in range(8):
            image = pixels(30 + index, 40 + number, 3, seed=index)
            save(tmp_path / "photos" / f"{name}{number}.jpg", image)
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    lines = re.findall(
        r"^python -m resnet_sweep (data=(?:image_folder|npz).*)$",
        page.replace("\\\n", " "),
        re.MULTILINE,
    )
    assert len(lines) == 3
    for line in lines:
        # Conversion to 224x224 takes seconds.
        words = [word.replace("=224", "=48") for word in shlex.split(line)]
        done = call(main, *words, "trainer.batch_size=8", "dry_run=true")
        assert done.returncode == 0, done.stderr


def test_a_run_on_an_image_folder_equals_the_run_on_the_same_arrays(
    cifar100_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arrays are CIFAR-100's own, in the order of the folders."""
    source = CIFAR100(str(cifar100_root)).load(seed=0)
    arrays = {}
    for part, split, count in (("train", source.train, 200), ("test", source.test, 400)):
        chosen = np.flatnonzero(split.labels[:count] < 60)
        chosen = chosen[np.argsort(split.labels[chosen], kind="stable")]
        arrays[part] = split.images[chosen], split.labels[chosen]
    known = {*arrays["train"][1]} & {*arrays["test"][1]}
    splits = {}
    for part, (images, labels) in arrays.items():
        kept = np.isin(labels, [*known])
        images, labels = images[kept], labels[kept]
        splits[part] = Split.whole(images, np.searchsorted(sorted(known), labels))
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = tmp_path / "data" / part / source.classes[label] / f"{number:04}.png"
            save(path, image.transpose(1, 2, 0))
    data = {
        "_target_": "resnet_sweep.data.ImageFolder",
        "root": str(tmp_path / "data"),
        "mean": source.mean,
        "std": source.std,
    }
    planned = plan_run(config(data=data))
    assert np.array_equal(images_of(planned.dataset.train), splits["train"].images)
    first = train(planned, tmp_path / "folder")

    direct = Dataset(
        splits["train"],
        splits["test"],
        splits["test"],
        [source.classes[label] for label in sorted(known)],
        source.mean,
        source.std,
        "direct",
    )
    monkeypatch.setattr(ImageFolder, "load", lambda self, seed: direct)
    assert_same_bits(first, train(plan_run(config(data=data)), tmp_path / "arrays"))
