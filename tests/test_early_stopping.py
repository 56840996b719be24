"""A run ends early where its settings say so, and its record has the reason."""

import dataclasses
from pathlib import Path

import pytest
from small_run import assert_same_bits, composed, config, open_run, train, without_times

from resnet_sweep import jobs
from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.config import EarlyStopping
from resnet_sweep.training.signals import StopSignal


def rows(values: list[float], metric: str = "val_acc") -> list[dict]:
    return [{"epoch": epoch, metric: value} for epoch, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([1, 2, 3, 4, 5], False),
        ([5, 4, 3], False),
        ([5, 4, 3, 2], True),
        ([5, 5, 5, 5], True),
        ([1, 5, 4, 4, 6], False),
        ([1, 5, 4, 4, 4], True),
    ],
)
def test_patience_counts_the_epochs_since_the_best(values: list[float], stops: bool) -> None:
    rising, falling = EarlyStopping(patience=3), EarlyStopping(patience=3, metric="val_loss")
    assert (rising.reason(rows(values)) is not None) is stops
    losses = rows([10 - value for value in values], "val_loss")
    assert (falling.reason(losses) is not None) is stops


def test_a_gain_of_min_delta_is_none() -> None:
    values = rows([1.0, 1.5, 2.0, 2.5])
    assert EarlyStopping(patience=3, min_delta=0.5).reason(values) is None
    assert EarlyStopping(patience=3, min_delta=2).reason(values) is not None


def test_nothing_stops_a_run_by_default() -> None:
    assert EarlyStopping().reason(rows([1.0] * 1000)) is None


def test_a_run_stopped_early_is_the_beginning_of_the_whole_one(tmp_path: Path) -> None:
    """The schedule keeps its length, and the record names the setting that ended the run."""
    whole = train(plan_run(config()), tmp_path / "whole")
    prepared = plan_run(config(trainer__early_stopping={"epoch": 2}))
    run = open_run(prepared, tmp_path / "stopped")
    jobs.train(prepared, run, StopSignal().listen())
    record = Record.read(tmp_path / "stopped")
    assert record.state == "stopped_early"
    assert "trainer.early_stopping.epoch=2" in record.reason
    assert record.has_ended
    stopped = without_times(read_metrics(tmp_path / "stopped"))
    assert stopped == without_times(read_metrics(tmp_path / "whole"))[:2]
    assert len(whole.rows) == 3


def test_a_run_ends_when_its_patience_is_used_up(tmp_path: Path) -> None:
    stopping = {"patience": 1, "metric": "train_loss", "min_delta": 100.0}
    training = train(plan_run(config(trainer__early_stopping=stopping)), tmp_path / "run")
    assert len(training.rows) == 2
    reason = training.config.early_stopping.reason(training.rows)
    # The metric, the epochs without a gain, and the best epoch with its value.
    for fact in ("train_loss", "1 epoch", "epoch 1", f"{training.rows[0]['train_loss']:.4g}"):
        assert fact in reason


def test_a_stop_beyond_the_end_changes_nothing_and_is_noted(tmp_path: Path) -> None:
    prepared = plan_run(config(trainer__early_stopping={"epoch": 85}))
    (note,) = prepared.notes
    assert "trainer.early_stopping.epoch=85" in note
    assert "epoch 3" in note
    cut = train(prepared, tmp_path / "cut")
    assert_same_bits(cut, train(plan_run(config()), tmp_path / "whole"))


@pytest.mark.parametrize(
    ("settings", "without_effect", "end"),
    [
        ({"trainer__early_stopping": {"epoch": 2}, "trainer__max_steps": 8}, "epoch=2", 2),
        ({"trainer__early_stopping": {"patience": 3}}, "patience=3", 3),
        (
            {"trainer__early_stopping": {"patience": 2}, "trainer__max_steps": 14},
            "patience=2",
            2,
        ),
    ],
)
def test_a_stop_that_comes_no_earlier_than_the_end_of_the_run_is_noted(
    settings: dict, without_effect: str, end: int
) -> None:
    (note,) = plan_run(config(**settings)).notes
    assert f"trainer.early_stopping.{without_effect}" in note
    assert f"epoch {end}" in note


def test_its_settings_are_those_of_the_config() -> None:
    assert {field.name for field in dataclasses.fields(EarlyStopping)} == {
        *composed()["trainer"]["early_stopping"]
    }
