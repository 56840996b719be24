"""Training on small images first."""

from pathlib import Path

import pytest
import torch
from small_run import config, open_run, train, weights
from torchvision.transforms.v2 import functional

from resnet_sweep.composition.prepare import prepare
from resnet_sweep.training.interruption import StopRequest
from resnet_sweep.training.resizing import ProgressiveResizing, resize


@pytest.mark.parametrize("size", [8, 16, 24, 31])
def test_resizing_is_torchvisions(size: int) -> None:
    images = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    theirs = functional.resize(images.float(), [size, size], antialias=True)
    torch.testing.assert_close(resize(images, size), theirs)


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
def test_sizes_share_the_run_and_the_last_epoch_has_the_last(sizes, epochs, expected) -> None:
    resizing = ProgressiveResizing(sizes, epochs)
    assert [resizing.size(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize("epochs", [7, 100, 101])
def test_each_size_has_its_share_of_a_long_run(epochs: int) -> None:
    resizing = ProgressiveResizing([16, 24, 32], epochs)
    sizes = [resizing.size(epoch) for epoch in range(epochs)]
    assert sizes == sorted(sizes)
    assert all(abs(sizes.count(size) - epochs / 3) < 1 for size in (16, 24, 32))


def test_the_model_is_trained_on_each_size_and_evaluated_at_full_size(tmp_path: Path) -> None:
    prepared = prepare(config(trainer__progressive_resizing=[16, 24, 32]))
    training = prepared.training()
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    training.model.register_forward_pre_hook(
        lambda model, images: seen[model.training].add(images[0].shape[-1])
    )
    run = open_run(prepared, tmp_path)
    training.fit(run, [], StopRequest())
    run.close("finished")
    assert seen == {True: {16, 24, 32}, False: {32}}


def test_full_size_all_along_is_no_resizing(tmp_path: Path) -> None:
    full = train(prepare(config(trainer__progressive_resizing=[32])), tmp_path / "full")
    plain = train(prepare(config()), tmp_path / "plain")
    for name, weight in weights(plain).items():
        assert torch.equal(weights(full)[name], weight)


def rows(*speeds: float) -> list[dict]:
    return [{"epoch": n, "images_per_second": speed} for n, speed in enumerate(speeds, start=1)]


def test_time_saved_is_against_the_speed_at_the_last_size() -> None:
    """100 seconds an epoch at the last size and 50 at the first, whatever else slowed one down."""
    speeds = rows(20.0, 20.0, 2.0, 10.0, 1.0, 10.0)
    (note,) = ProgressiveResizing([16, 32], 6).notes(speeds, images=1000)
    assert "saved about 2 min 30 s of 10 min 00 s of training" in note
    assert "up to 32 pixels" in note


def test_what_saved_nothing_is_not_said_to_have_saved() -> None:
    (note,) = ProgressiveResizing([16, 32], 2).notes(rows(5.0, 10.0), images=100)
    assert "saved about 0.0 s" in note
    assert ProgressiveResizing([32], 2).notes(rows(5.0, 10.0), images=100) == []


def test_a_run_that_ended_before_the_last_size_says_so() -> None:
    (note,) = ProgressiveResizing([16, 24, 32], 6).notes(rows(5.0, 5.0, 5.0), images=100)
    assert "can't be told, since no epoch was trained at 32 pixels" in note


def test_time_saved_is_noted(tmp_path: Path) -> None:
    resized = train(prepare(config(trainer__progressive_resizing=[16, 32])), tmp_path / "resized")
    (note,) = resized.notes()
    assert note.startswith("progressive resizing saved about ")
    assert train(prepare(config()), tmp_path / "plain").notes() == []


def test_the_sizes_epochs_are_noted() -> None:
    (note,) = prepare(config(trainer__progressive_resizing=[16, 24, 32])).notes
    assert note == (
        "trained at 16 pixels in epoch 1, 24 pixels in epoch 2, 32 pixels in epoch 3; evaluated at "
        "full size"
    )
    assert (
        str(ProgressiveResizing([16, 32], 7))
        == "16 pixels in epochs 1 to 3, 32 pixels in epochs 4 to 7"
    )
