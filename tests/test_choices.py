"""Every choice of every group trains, with every other that it might meet, and is resumed."""

from pathlib import Path

import pytest
import torch
from conftest import Command
from small_run import (
    StopAt,
    assert_same_bits,
    choices,
    composed,
    config,
    open_run,
    train,
    without_times,
)

from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.trainer import Trainer


def small(*overrides: str, root: Path) -> dict:
    """Two steps on real images, of a small model unless the overrides name one."""
    model = (
        []
        if any(word.startswith(("model=", "experiment=quickstart")) for word in overrides)
        else ["model=resnet8v2"]
    )
    settings = composed(*model, *overrides)
    settings["data"] |= {"limit_train": 8, "limit_test": 8, "holdout": None}
    if "root" in settings["data"]:
        settings["data"]["root"] = str(root)
    settings["trainer"] |= {"batch_size": 4, "max_steps": 2, "device": "cpu", "threads": 1}
    return settings


def companies() -> list[list[str]]:
    """Lists of one choice of each group, in which each choice of each group occurs."""
    # What is left out is tested by itself: experiments choose for several groups.
    groups = [
        choices(group)
        for group in ("augmentation", "logger", "loss", "model", "optim", "schedule", "sweep",
                      "trainer")
    ]  # fmt: skip
    return [
        [group[number % len(group)] for group in groups] for number in range(max(map(len, groups)))
    ]


def assert_trained_two_steps(training: Trainer) -> None:
    assert training.global_step == 2
    assert torch.isfinite(training.step_metrics.losses[:2]).all()
    assert all(weight.isfinite().all() for weight in training.model.parameters())
    (row,) = training.rows
    assert 0 <= row["train_acc"] <= 100


@pytest.mark.parametrize("words", companies(), ids=lambda words: words[0])
def test_every_choice_trains_two_steps_with_others(words: list[str], tmp_path: Path) -> None:
    assert_trained_two_steps(train(plan_run(small(*words, "data=digits", root=tmp_path)), tmp_path))


@pytest.mark.parametrize("choice", ["data=cifar100", *choices("debug")])
def test_data_and_debug_choices_train_two_steps(
    choice: str, tmp_path: Path, cifar100_root: Path
) -> None:
    assert_trained_two_steps(train(plan_run(small(choice, root=cifar100_root)), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("choice", choices())
def test_every_choice_trains_two_steps(choice: str, tmp_path: Path, cifar100_root: Path) -> None:
    assert_trained_two_steps(train(plan_run(small(choice, root=cifar100_root)), tmp_path))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_trains_two_epochs(experiment: str, tmp_path: Path) -> None:
    words = ["model=resnet8v2", "data=digits", "data.limit_train=32", "data.limit_test=16"]
    short = ["trainer.epochs=2", "trainer.batch_size=16", "trainer.device=cpu"]
    training = train(plan_run(composed(experiment, *words, *short)), tmp_path)
    assert [row["epoch"] for row in training.rows] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", choices("loss"))
@pytest.mark.parametrize("augmentation", choices("augmentation"))
def test_every_augmentation_trains_with_every_loss(
    augmentation: str, loss: str, tmp_path: Path, cifar100_root: Path
) -> None:
    training = train(plan_run(small(augmentation, loss, root=cifar100_root)), tmp_path)
    assert torch.isfinite(training.step_metrics.losses[:2]).all()


@pytest.mark.parametrize("stopping", ["epoch", "patience"])
@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_schedule_trains_with_early_stopping(
    schedule: str, stopping: str, tmp_path: Path
) -> None:
    settings = composed(schedule)["schedule"]
    # No epoch gains a thousand points, so patience ends with the second epoch too.
    early = {"epoch": 2} if stopping == "epoch" else {"patience": 1, "min_delta": 1000.0}
    training = train(plan_run(config(schedule=settings, trainer__early_stopping=early)), tmp_path)
    assert len(training.rows) == 2
    assert [row["lr"] for row in training.rows] == [
        training.schedule(7 * epoch) for epoch in range(2)
    ]


RESUMED = [
    *({"augmentation": choice} for choice in choices("augmentation")),
    *({"schedule": choice} for choice in choices("schedule")),
    *({"optim": choice} for choice in choices("optim")),
    {"trainer__ema_decay": 0.9},
    {"trainer__clip_grad_norm": 0.1},
    {"trainer__progressive_resizing": [16, 24, 32]},
    {"model__attention": "cbam", "model__stochastic_depth": 0.5},
]
RESUMED_FIRST = [
    {"trainer__early_stopping": {"patience": 1, "metric": "val_loss"}},
    {"model__block": "basic_v1", "trainer__drop_last": True, "trainer__max_steps": 17},
    # As many of them as can be had together.
    {
        "optim": "optim=muon",
        "schedule": "schedule=plateau",
        "augmentation": "augmentation=[trivial_augment,random_erasing,cutmix_mixup]",
        "loss": "loss=label_smoothing",
        "model__attention": "se",
        "model__stochastic_depth": 0.5,
        "trainer__ema_decay": 0.9,
        "trainer__clip_grad_norm": 0.5,
        "trainer__progressive_resizing": [16, 32],
    },
]


@pytest.mark.parametrize(
    "settings",
    [*RESUMED_FIRST, *(pytest.param(each, marks=pytest.mark.slow) for each in RESUMED)],
    ids=lambda entry: "-".join(entry)[:40],
)
def test_resumed_run_equals_uninterrupted_run_whatever_is_chosen(
    settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)
    chosen = {
        name: value if "__" in name else composed(value)[name] for name, value in settings.items()
    }
    if settings.get("schedule") == "schedule=plateau":
        chosen["schedule"] |= {"patience": 0, "metric": "val_loss", "threshold": 0.5}
    prepared = plan_run(config(**chosen))
    whole = train(prepared, tmp_path / "whole")
    for step in (4, 7, 9, 14, 18):
        run = open_run(prepared, tmp_path / "stopped")
        stop = StopSignal()
        stopped = prepared.build_trainer()
        try:
            stopped.fit(run, [StopAt(stop, step)], stop)
        except Interrupted:
            run.close("interrupted")
        else:
            run.close("finished")
            resumed = stopped
            break
    else:
        resumed = train(prepared, tmp_path / "stopped")
    assert_same_bits(resumed, whole)
    assert without_times(read_metrics(tmp_path / "stopped")) == without_times(whole.rows)
    layers = [(tmp_path / name / "layer_norms.csv").read_bytes() for name in ("stopped", "whole")]
    assert layers[0] == layers[1]
    if whole.ema:
        ours, theirs = resumed.ema.model.state_dict(), whole.ema.model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_optimizer_of_torch_is_a_file_and_no_code(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    (tmp_path / "mine" / "optim" / "nadam.yaml").write_text(
        "_target_: torch.optim.NAdam\nlr: 0.002\nmomentum_decay: 0.004\n"
    )
    done = command(
        "--config-dir", "mine", "experiment=quickstart", "optim=nadam", "trainer.max_steps=2",
        "data.limit_train=128", "data.limit_test=16", "trainer.threads=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = Record.read(tmp_path / "run")
    assert record.choices["optim"] == "nadam"
    assert record.config["optim"]["momentum_decay"] == 0.004
