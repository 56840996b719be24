"""Progressive resizing: training on small images first."""

import re
from pathlib import Path

import pytest
import torch
from small_run import config, open_run, train, weights
from torchvision.transforms.v2 import functional

from resnet_sweep.config.plan import plan_run
from resnet_sweep.training.progressive_resizing import ProgressiveResizing, resize
from resnet_sweep.training.signals import StopSignal


@pytest.mark.parametrize("size", [8, 16, 24, 31])
def test_resized_images_equal_torchvisions(size: int) -> None:
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    theirs = functional.resize(images.float(), [size, size], antialias=True)
    torch.testing.assert_close(resize(images, size), theirs)


def test_the_height_of_oblong_images_is_in_proportion() -> None:
    images = torch.randint(256, (5, 1, 20, 32), dtype=torch.uint8)
    theirs = functional.resize(images.float(), [10, 16], antialias=True)
    torch.testing.assert_close(resize(images, 16), theirs)


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        ([16, 24, 32], 6, [16, 16, 24, 24, 32, 32]),
        ([16, 24, 32, 32], 4, [16, 24, 32, 32]),
        ([16, 32, 32], 3, [16, 32, 32]),
        ([16, 24, 32], 2, [24, 32]),
        ([16, 24, 32], 1, [32]),
        ([32], 3, [32, 32, 32]),
    ],
)
def test_the_sizes_divide_the_epochs_and_the_last_epoch_has_the_last_size(
    sizes, epochs, expected
) -> None:
    resizing = ProgressiveResizing(sizes, epochs)
    assert [resizing.size(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize("epochs", [7, 100, 101])
def test_each_size_has_an_equal_share_of_a_long_run(epochs: int) -> None:
    resizing = ProgressiveResizing([16, 24, 32], epochs)
    sizes = [resizing.size(epoch) for epoch in range(epochs)]
    assert sizes == sorted(sizes)
    assert all(abs(sizes.count(size) - epochs / 3) < 1 for size in (16, 24, 32))


def test_the_model_is_trained_on_each_size_and_evaluated_at_full_size(tmp_path: Path) -> None:
    prepared = plan_run(config(trainer__progressive_resizing=[16, 24, 32]))
    training = prepared.build_trainer()
    # The image sizes in training (True) and evaluation (False).
    sizes: dict[bool, set[int]] = {True: set(), False: set()}
    training.model.register_forward_pre_hook(
        lambda model, images: sizes[model.training].add(images[0].shape[-1])
    )
    run = open_run(prepared, tmp_path)
    training.fit(run, [], StopSignal())
    run.close("finished")
    assert sizes == {True: {16, 24, 32}, False: {32}}


def test_resizing_to_the_full_size_trains_the_same_weights_as_no_resizing(tmp_path: Path) -> None:
    full = train(plan_run(config(trainer__progressive_resizing=[32])), tmp_path / "full")
    plain = train(plan_run(config()), tmp_path / "plain")
    for name, weight in weights(plain).items():
        assert torch.equal(weights(full)[name], weight)


def rows(*speeds: float) -> list[dict]:
    return [{"epoch": n, "images_per_second": speed} for n, speed in enumerate(speeds, start=1)]


def test_the_time_saved_is_relative_to_the_speed_at_the_last_size() -> None:
    """An epoch takes 100 s at the last size and 50 s at the first; slower ones are outliers."""
    speeds = rows(20.0, 20.0, 2.0, 10.0, 1.0, 10.0)
    (note,) = ProgressiveResizing([16, 32], 6).notes(speeds, images=1000)
    for fact in ("2 min 30 s", "10 min 00 s", "32 pixels"):
        assert fact in note


def test_the_time_saved_is_never_negative() -> None:
    (note,) = ProgressiveResizing([16, 32], 2).notes(rows(5.0, 10.0), images=100)
    assert " 0.0 s" in note
    assert "-" not in note
    assert ProgressiveResizing([32], 2).notes(rows(5.0, 10.0), images=100) == []


def test_a_run_that_ended_before_the_last_size_notes_no_time_saved() -> None:
    (note,) = ProgressiveResizing([16, 24, 32], 6).notes(rows(5.0, 5.0, 5.0), images=100)
    assert "32 pixels" in note
    # The note contains no duration.
    assert not re.search(r"\d s\b|\d min\b", note)


def test_a_run_notes_the_time_saved(tmp_path: Path) -> None:
    resized = train(plan_run(config(trainer__progressive_resizing=[16, 32])), tmp_path / "resized")
    (note,) = resized.notes()
    assert "resizing" in note
    assert re.search(r"\d s\b", note)
    assert "32 pixels" in note
    assert train(plan_run(config()), tmp_path / "plain").notes() == []


def test_a_run_notes_the_epochs_of_each_size() -> None:
    (note,) = plan_run(config(trainer__progressive_resizing=[16, 24, 32])).notes
    # Each size is followed by its first and last epoch, or by its only epoch.
    assert re.findall(r"\d+", note) == ["16", "1", "24", "2", "32", "3"]
    assert re.findall(r"\d+", str(ProgressiveResizing([16, 32], 7))) == [
        "16",
        "1",
        "3",
        "32",
        "4",
        "7",
    ]
