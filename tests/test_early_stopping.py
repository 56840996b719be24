"""Early stopping: a run ends when its settings say so, and its record has the reason."""

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


def test_a_gain_of_only_min_delta_does_not_count() -> None:
    values = rows([1.0, 1.5, 2.0, 2.5])
    assert EarlyStopping(patience=3, min_delta=0.5).reason(values) is None
    assert EarlyStopping(patience=3, min_delta=2).reason(values) is not None


def test_no_run_is_stopped_by_default() -> None:
    assert EarlyStopping().reason(rows([1.0] * 1000)) is None


def test_a_run_that_is_stopped_early_has_the_first_epochs_of_the_complete_run(
    tmp_path: Path,
) -> None:
    """The schedule keeps its length, and the record names the setting that stopped the run."""
    complete = train(plan_run(config()), tmp_path / "complete")
    planned = plan_run(config(trainer__early_stopping={"epoch": 2}))
    run = open_run(planned, tmp_path / "stopped")
    jobs.train(planned, run, StopSignal().listen())
    record = Record.read(tmp_path / "stopped")
    assert record.state == "stopped_early"
    assert "trainer.early_stopping.epoch=2" in record.reason
    assert record.has_ended
    stopped_rows = without_times(read_metrics(tmp_path / "stopped"))
    assert stopped_rows == without_times(read_metrics(tmp_path / "complete"))[:2]
    assert len(complete.rows) == 3


def test_a_run_ends_when_its_patience_is_exhausted(tmp_path: Path) -> None:
    stopping = {"patience": 1, "metric": "train_loss", "min_delta": 100.0}
    trainer = train(plan_run(config(trainer__early_stopping=stopping)), tmp_path / "run")
    assert len(trainer.rows) == 2
    reason = trainer.config.early_stopping.reason(trainer.rows)
    # The reason has the metric, the epochs without a gain, and the best epoch with its value.
    for fact in ("train_loss", "1 epoch", "epoch 1", f"{trainer.rows[0]['train_loss']:.4g}"):
        assert fact in reason


def test_a_stop_after_the_last_epoch_changes_nothing_and_is_noted(tmp_path: Path) -> None:
    planned = plan_run(config(trainer__early_stopping={"epoch": 85}))
    (note,) = planned.notes
    assert "trainer.early_stopping.epoch=85" in note
    assert "epoch 3" in note
    stopped = train(planned, tmp_path / "stopped")
    assert_same_bits(stopped, train(plan_run(config()), tmp_path / "complete"))


@pytest.mark.parametrize(
    ("settings", "setting", "last_epoch"),
    [
        ({"trainer__early_stopping": {"epoch": 2}, "trainer__max_steps": 8}, "epoch=2", 2),
        ({"trainer__early_stopping": {"patience": 3}}, "patience=3", 3),
        ({"trainer__early_stopping": {"patience": 2}}, "patience=2", 3),
        (
            {"trainer__early_stopping": {"patience": 2}, "trainer__max_steps": 14},
            "patience=2",
            2,
        ),
    ],
)
def test_a_stop_that_cannot_come_before_the_end_of_the_run_is_noted(
    settings: dict, setting: str, last_epoch: int
) -> None:
    (note,) = plan_run(config(**settings)).notes
    assert f"trainer.early_stopping.{setting}" in note
    assert f"epoch {last_epoch}" in note


def test_the_config_has_every_setting_of_early_stopping() -> None:
    assert {field.name for field in dataclasses.fields(EarlyStopping)} == {
        *composed()["trainer"]["early_stopping"]
    }
