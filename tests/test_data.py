"""Datasets are complete, their files are validated, and subsets of them are balanced."""

import pickle
import shutil
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from resnet_sweep.data import CIFAR100, Digits
from resnet_sweep.data.cifar100 import read_split
from resnet_sweep.data.dataset import Batches, Split, balanced_subset, fits
from resnet_sweep.errors import ConfigError


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return np.random.RandomState(0).permutation(np.repeat(np.arange(7), 30)).astype(np.uint8)


@pytest.mark.parametrize("count", [1, 6, 7, 50, 209, 210])
def test_a_subset_has_the_same_number_of_images_of_each_class(
    labels: np.ndarray, count: int
) -> None:
    chosen = balanced_subset(labels, count, seed=3)
    sizes = np.bincount(labels[chosen], minlength=7)
    assert len(np.unique(chosen)) == count
    assert sizes.max() - sizes.min() <= 1


def test_a_subset_depends_on_the_seed(labels: np.ndarray) -> None:
    assert np.array_equal(balanced_subset(labels, 40, 1), balanced_subset(labels, 40, 1))
    assert not np.array_equal(balanced_subset(labels, 40, 1), balanced_subset(labels, 40, 2))


def test_a_larger_subset_contains_a_smaller_one(labels: np.ndarray) -> None:
    small, large = (balanced_subset(labels, count, 1) for count in (33, 80))
    assert set(small) < set(large)


def test_a_subset_contains_all_images_of_a_rare_class() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    assert np.bincount(labels[balanced_subset(labels, 20, 0)]).tolist() == [17, 3]


def test_holdout_and_training_images_are_disjoint_and_the_test_set_is_not_used() -> None:
    full = Digits().load(seed=0)
    reduced = Digits(holdout=200, limit_train=500, limit_test=100).load(seed=0)
    assert (len(full.train), len(full.validation), len(full.test)) == (1437, 360, 360)
    assert full.validation is full.test
    assert (len(reduced.train), len(reduced.validation), len(reduced.test)) == (500, 200, 100)
    assert not set(reduced.train.indices) & set(reduced.validation.indices)
    assert set(reduced.validation.indices) < set(full.train.indices)
    assert set(reduced.test.indices) < set(full.test.indices)
    assert np.bincount(reduced.validation.labels[reduced.validation.indices]).tolist() == [20] * 10


def test_mean_and_std_of_digits_are_those_of_its_training_images() -> None:
    dataset = Digits().load(seed=0)
    pixels = dataset.train.images[dataset.train.indices].astype(float) / 255
    assert dataset.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-9)
    assert dataset.std == pytest.approx(pixels.std((0, 2, 3)).tolist(), abs=1e-9)


def assert_load_refused(data: Digits | CIFAR100, *facts: str) -> None:
    """Assert that loading raises a ConfigError whose message contains all facts."""
    with pytest.raises(ConfigError) as refusal:
        data.load(seed=0)
    for fact in facts:
        assert fact in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "available"), [("limit_train", 1437), ("limit_test", 360), ("holdout", 1437)]
)
def test_a_subset_larger_than_the_data_is_refused(setting: str, available: int) -> None:
    assert_load_refused(Digits(**{setting: 5000}), f"data.{setting}=5000", str(available))


def test_a_holdout_of_all_training_images_is_refused() -> None:
    assert_load_refused(Digits(holdout=1437), "data.holdout=1437")


@pytest.mark.parametrize("size", [8, 16, 32])
def test_digits_equal_scikit_learns(size: int) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    split = Digits(size=size).load(seed=0).train
    for index in (0, 700, 1436):
        position = split.indices[index]
        assert split.labels[position] == source.target[position]
        scaled = split.images[position][:, :: size // 8, :: size // 8] / 255 * 16
        assert np.abs(scaled - source.images[position]).max() < 0.04


def test_a_batch_has_the_images_and_labels_at_its_positions() -> None:
    images = np.random.RandomState(0).randint(0, 256, (20, 3, 4, 4)).astype(np.uint8)
    labels = np.arange(20, dtype=np.uint8)
    split = Split(images, labels, np.array([3, 5, 8, 13]))
    batch, targets = Batches(split, torch.device("cpu")).take(torch.tensor([3, 0]))
    assert targets.tolist() == [13, 3]
    assert np.array_equal(batch.numpy(), images[[13, 3]])


@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_same_whether_or_not_the_images_are_resident(resident: bool) -> None:
    images = np.random.RandomState(0).randint(0, 256, (20, 1, 6, 4)).astype(np.uint8)
    labels = np.arange(20) + 290
    split = Split(images, labels, np.arange(1, 20))
    batches = Batches(split, torch.device("cpu"), resident)
    positions = [*torch.randperm(19).split(5)]
    found = [*batches.each(positions)]
    assert [len(batch) for batch, _ in found] == [5, 5, 5, 4]
    for chosen, (batch, targets) in zip(positions, found, strict=True):
        assert np.array_equal(batch.numpy(), images[1:][chosen])
        assert targets.dtype == torch.int64
        assert targets.tolist() == labels[1:][chosen].tolist()


def test_the_batch_that_follows_is_copied_before_one_is_used() -> None:
    images, labels = np.zeros((12, 1, 2, 2), np.uint8), np.zeros(12, np.int64)
    batches = Batches(Split.whole(images, labels), torch.device("cpu"), resident=False)
    requested: list[int] = []

    def positions() -> Iterator[torch.Tensor]:
        for first in range(0, 12, 4):
            requested.append(first)
            yield torch.arange(first, first + 4)

    ahead = [[*requested] for _ in batches.each(positions())]
    assert ahead == [[0, 4], [0, 4, 8], [0, 4, 8]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_gets_the_images_of_each_batch(resident: bool) -> None:
    images = np.random.RandomState(0).randint(0, 256, (4096, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(4096)
    batches = Batches(Split.whole(images, labels), torch.device("cuda"), resident)
    for chosen, (batch, targets) in zip(
        labels.reshape(-1, 64), batches.each(torch.arange(4096).split(64)), strict=True
    ):
        assert batch.device.type == "cuda"
        assert np.array_equal(batch.cpu().numpy(), images[chosen])
        assert targets.tolist() == chosen.tolist()


def test_images_larger_than_half_of_a_gpus_free_memory_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    gpu = torch.device("cuda")
    assert (fits(gpu, 500), fits(gpu, 501), fits(torch.device("cpu"), 2**60)) == (True, False, True)


class TestCIFAR100:
    """CIFAR-100, with the real images."""

    @pytest.mark.slow
    def test_the_normalization_constants_are_those_of_the_training_images(
        self, cifar100_root: Path
    ) -> None:
        source = CIFAR100(str(cifar100_root))
        images = source.load(seed=0).train.images
        # Sums of integers have no rounding errors.
        values = np.arange(256)
        for channel in range(3):
            counts = np.bincount(images[:, channel].ravel(), minlength=256)
            mean = (counts * values).sum() / counts.sum()
            deviation = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
            assert mean / 255 == pytest.approx(source.mean[channel], abs=2e-4)
            # The constants that are commonly used have errors of up to 0.0002.
            assert deviation / 255 == pytest.approx(source.std[channel], abs=2e-4)

    def test_the_dataset_is_complete_and_balanced(self, cifar100_root: Path) -> None:
        dataset = CIFAR100(str(cifar100_root)).load(seed=0)
        assert (len(dataset.train), len(dataset.test)) == (50_000, 10_000)
        assert set(np.bincount(dataset.train.labels)) == {500}
        assert set(np.bincount(dataset.test.labels)) == {100}
        assert len(dataset.classes) == 100

    def test_the_holdout_is_balanced(self, cifar100_root: Path) -> None:
        dataset = CIFAR100(str(cifar100_root), holdout=5000, limit_train=1000).load(seed=0)
        split = dataset.validation
        assert set(np.bincount(split.labels[split.indices])) == {50}
        assert set(np.bincount(dataset.train.labels[dataset.train.indices])) == {10}
        assert len(dataset.test) == 10_000

    def test_an_environment_variable_sets_the_default_root(
        self, cifar100_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RESNET_SWEEP_DATA", str(cifar100_root))
        assert len(CIFAR100().load(seed=0).train) == 50_000

    def test_processes_share_the_memory_of_the_images(self, cifar100_root: Path) -> None:
        dataset = CIFAR100(str(cifar100_root), holdout=5000).load(seed=0)
        assert isinstance(dataset.train.images, np.memmap)
        batches = Batches(dataset.train, torch.device("cpu"))
        assert batches.images.data_ptr() == dataset.train.images.ctypes.data

    @pytest.fixture
    def copy(self, cifar100_root: Path, tmp_path: Path) -> Path:
        """Return a copy that the test may change. Its training images are a link."""
        large = "train_images.npy"
        source, folder = cifar100_root / "cifar100", tmp_path / "cifar100"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(large))
        for path in folder.iterdir():
            path.chmod(0o644)
        (folder / large).symlink_to(source / large)
        return tmp_path

    def test_one_changed_pixel_is_detected(self, copy: Path) -> None:
        path = copy / "cifar100" / "test_images.npy"
        content = bytearray(path.read_bytes())
        content[1_000_000] ^= 1
        path.write_bytes(content)
        assert_load_refused(CIFAR100(str(copy)), "test_images.npy", "test_labels.npy")

    def test_two_swapped_labels_are_detected(self, copy: Path) -> None:
        path = copy / "cifar100" / "test_labels.npy"
        labels = np.load(path)
        different = np.flatnonzero(labels != labels[0])[0]
        labels[[0, different]] = labels[[different, 0]]
        np.save(path, labels)
        assert_load_refused(CIFAR100(str(copy)), "test_images.npy", "test_labels.npy")

    def test_a_label_outside_the_classes_is_refused(self, copy: Path) -> None:
        path = copy / "cifar100" / "train_labels.npy"
        labels = np.load(path)
        labels[17] = 100
        np.save(path, labels)
        assert_load_refused(CIFAR100(str(copy)), "train_labels.npy", "100")

    @pytest.mark.parametrize("size", [0, 60, 128, 20_000_000])
    def test_a_truncated_file_is_refused(self, copy: Path, size: int) -> None:
        path = copy / "cifar100" / "test_images.npy"
        path.write_bytes(path.read_bytes()[:size])
        assert_load_refused(CIFAR100(str(copy)), "test_images.npy")

    @pytest.mark.parametrize("names", [99, 101, 0])
    def test_a_wrong_number_of_class_names_is_refused(self, copy: Path, names: int) -> None:
        text = "".join(f"class {number}\n" for number in range(names))
        (copy / "cifar100" / "classes.txt").write_text(text)
        assert_load_refused(CIFAR100(str(copy)), "classes.txt", str(names), "100")

    def test_a_damaged_header_is_refused_or_does_not_change_the_labels(self, copy: Path) -> None:
        path = copy / "cifar100" / "test_labels.npy"
        content = path.read_bytes()
        rng = np.random.RandomState(0)
        for _ in range(300):
            damaged = bytearray(content)
            damaged[rng.randint(128)] = rng.randint(256)
            if bytes(damaged) == content:
                continue
            path.write_bytes(damaged)
            try:
                split = read_split(copy / "cifar100", "test")
            except ConfigError:
                continue
            # Some bytes of the header don't matter; then the labels are the same.
            assert np.array_equal(split.labels, np.load(path.with_name("test_labels.npy")))
            assert split.labels.tobytes() == content[128:]

    def test_a_missing_file_is_refused(self, copy: Path) -> None:
        (copy / "cifar100" / "classes.txt").unlink()
        assert_load_refused(CIFAR100(str(copy)), "classes.txt")

    def test_an_array_of_another_type_is_refused(self, copy: Path) -> None:
        np.save(copy / "cifar100" / "test_labels.npy", np.zeros(10_000))
        assert_load_refused(CIFAR100(str(copy)), "test_labels.npy", "float64", "uint8")

    def test_torchvisions_files_are_converted_to_array_files_once(
        self, cifar100_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The files are those of the published archive, except for their checksums."""
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        source = cifar100_root / "cifar100"
        names = (source / "classes.txt").read_text().split()
        content = {"meta": {"fine_label_names": names}}
        for part in ("train", "test"):
            content[part] = {
                "data": np.load(source / f"{part}_images.npy").reshape(-1, 3072),
                "fine_labels": np.load(source / f"{part}_labels.npy").tolist(),
            }
        sums = {}
        for name, value in content.items():
            pickled = pickle.dumps(value)
            (folder / name).write_bytes(pickled)
            sums[name] = md5(pickled).hexdigest()
        for part in ("train", "test"):
            monkeypatch.setattr(datasets.CIFAR100, f"{part}_list", [[part, sums[part]]])
        meta = datasets.CIFAR100.meta | {"md5": sums["meta"]}
        monkeypatch.setattr(datasets.CIFAR100, "meta", meta)

        converted = CIFAR100(str(tmp_path)).load(seed=0)
        for part in ("train", "test"):
            for kind in ("images", "labels"):
                name = f"{part}_{kind}.npy"
                assert (tmp_path / "cifar100" / name).read_bytes() == (source / name).read_bytes()
        assert converted.classes == names
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".cifar100-")]

        shutil.rmtree(folder)
        assert CIFAR100(str(tmp_path)).load(seed=0).fingerprint == converted.fingerprint

    def test_changed_files_of_torchvision_are_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        for name in ("train", "test", "meta"):
            (folder / name).write_bytes(pickle.dumps({}))
        assert_load_refused(CIFAR100(str(tmp_path)), "cifar-100-python")
        assert not (tmp_path / "cifar100").exists()


def test_a_root_that_does_not_exist_starts_no_download(tmp_path: Path) -> None:
    root = str(tmp_path / "typo")
    assert_load_refused(CIFAR100(root), f"data.root={root}", "cifar100/", "cifar-100-python/")
    assert not (tmp_path / "typo").exists()
