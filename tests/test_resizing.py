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
    resizing = ProgressiveResizing(sizes, epochs, images=100)
    assert [resizing.size(epoch) for epoch in range(epochs)] == expected


@pytest.mark.parametrize("epochs", [7, 100, 101])
def test_each_size_has_its_share_of_a_long_run(epochs: int) -> None:
    resizing = ProgressiveResizing([16, 24, 32], epochs, images=100)
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


def test_time_saved_is_against_the_speed_at_full_size() -> None:
    resizing = ProgressiveResizing([16, 32], 4, images=100)
    speeds = [100.0, 100.0, 40.0, 60.0]
    rows = [{"epoch": n, "images_per_second": x} for n, x in enumerate(speeds, start=1)]
    full = (100 / 40 + 100 / 60) / 2
    assert resizing.saved(rows) == pytest.approx((2 * (full - 1), 4 * full))
    assert resizing.saved(rows[:2]) is None


def test_time_saved_is_noted(tmp_path: Path) -> None:
    resized = train(prepare(config(trainer__progressive_resizing=[16, 32])), tmp_path / "resized")
    (note,) = resized.notes()
    assert note.startswith("progressive resizing saved about ")
    assert train(prepare(config()), tmp_path / "plain").notes() == []
