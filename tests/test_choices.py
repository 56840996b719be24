"""Every choice of every config group trains, combined with other choices, and can be resumed."""

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
    """Return the config of a two-step run, with a small model unless the overrides choose one."""
    model = (
        []
        if any(override.startswith(("model=", "experiment=quickstart")) for override in overrides)
        else ["model=resnet8v2"]
    )
    settings = composed(*model, *overrides)
    settings["data"] |= {"limit_train": 8, "limit_test": 8, "holdout": None}
    if "root" in settings["data"]:
        settings["data"]["root"] = str(root)
    settings["trainer"] |= {"batch_size": 4, "max_steps": 2, "device": "cpu", "threads": 1}
    return settings


def combinations() -> list[list[str]]:
    """Return lists with a choice of each group. Every choice is in at least one list."""
    # The other groups have their own tests: experiments choose from several groups.
    groups = [
        choices(group)
        for group in (
            "augmentation",
            "logger",
            "loss",
            "metric",
            "model",
            "optim",
            "schedule",
            "sweep",
            "trainer",
        )
    ]
    return [
        [group[number % len(group)] for group in groups] for number in range(max(map(len, groups)))
    ]


def assert_trained_two_steps(trainer: Trainer) -> None:
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.step_metrics.losses[:2]).all()
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    (row,) = trainer.rows
    assert 0 <= row["train_acc"] <= 100


@pytest.mark.parametrize("overrides", combinations(), ids=lambda overrides: overrides[0])
def test_every_choice_trains_two_steps_with_choices_of_other_groups(
    overrides: list[str], tmp_path: Path
) -> None:
    assert_trained_two_steps(
        train(plan_run(small(*overrides, "data=digits", root=tmp_path)), tmp_path)
    )


@pytest.mark.parametrize("choice", ["data=cifar100", *choices("debug")])
def test_data_and_debug_choices_train_two_steps(
    choice: str, tmp_path: Path, cifar100_root: Path
) -> None:
    assert_trained_two_steps(train(plan_run(small(choice, root=cifar100_root)), tmp_path))


def choices_without_own_files() -> list[str]:
    """Return all choices but the datasets whose files `test_own_data.py` makes."""
    data = ("data=cifar100", "data=digits")
    return [choice for choice in choices() if not choice.startswith("data=") or choice in data]


@pytest.mark.slow
@pytest.mark.parametrize("choice", choices_without_own_files())
def test_every_choice_trains_two_steps(choice: str, tmp_path: Path, cifar100_root: Path) -> None:
    assert_trained_two_steps(train(plan_run(small(choice, root=cifar100_root)), tmp_path))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_trains_two_epochs(experiment: str, tmp_path: Path) -> None:
    overrides = ["model=resnet8v2", "data=digits", "data.limit_train=32", "data.limit_test=16"]
    short = ["trainer.epochs=2", "trainer.batch_size=16", "trainer.device=cpu"]
    trainer = train(plan_run(composed(experiment, *overrides, *short)), tmp_path)
    assert [row["epoch"] for row in trainer.rows] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", choices("loss"))
@pytest.mark.parametrize("augmentation", choices("augmentation"))
def test_every_augmentation_trains_with_every_loss(
    augmentation: str, loss: str, tmp_path: Path, cifar100_root: Path
) -> None:
    trainer = train(plan_run(small(augmentation, loss, root=cifar100_root)), tmp_path)
    assert torch.isfinite(trainer.step_metrics.losses[:2]).all()


@pytest.mark.parametrize("stopping", ["epoch", "patience"])
@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_schedule_trains_with_early_stopping(
    schedule: str, stopping: str, tmp_path: Path
) -> None:
    settings = composed(schedule)["schedule"]
    # No epoch gains a thousand points, so the patience ends with the second epoch, too.
    early_stopping = {"epoch": 2} if stopping == "epoch" else {"patience": 1, "min_delta": 1000.0}
    trainer = train(
        plan_run(config(schedule=settings, trainer__early_stopping=early_stopping)), tmp_path
    )
    assert len(trainer.rows) == 2
    assert [row["lr"] for row in trainer.rows] == [
        trainer.schedule(7 * epoch) for epoch in range(2)
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
    # As many settings as can be combined.
    {
        "optim": "optim=muon",
        "schedule": "schedule=plateau",
        "augmentation": "augmentation=[trivial_augment,random_erasing,cutmix_mixup]",
        "loss": "loss=label_smoothing",
        "model__attention": "se",
        "model__stochastic_depth": 0.5,
        "trainer__ema_decay": [0.9, 0.5],
        "trainer__clip_grad_norm": 0.5,
        "trainer__progressive_resizing": [16, 32],
    },
]


@pytest.mark.parametrize(
    "settings",
    [*RESUMED_FIRST, *(pytest.param(settings, marks=pytest.mark.slow) for settings in RESUMED)],
    ids=lambda settings: "-".join(settings)[:40],
)
def test_a_resumed_run_equals_the_uninterrupted_run_with_every_choice(
    settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)
    changes = {
        name: value if "__" in name else composed(value)[name] for name, value in settings.items()
    }
    if settings.get("schedule") == "schedule=plateau":
        changes["schedule"] |= {"patience": 0, "metric": "val_loss", "threshold": 0.5}
    planned = plan_run(config(**changes))
    uninterrupted = train(planned, tmp_path / "uninterrupted")
    for step in (4, 7, 9, 14, 18):
        run = open_run(planned, tmp_path / "stopped")
        stop = StopSignal()
        stopped = planned.build_trainer()
        try:
            stopped.fit(run, [StopAt(stop, step)], stop)
        except Interrupted:
            run.close("interrupted")
        else:
            run.close("finished")
            resumed = stopped
            break
    else:
        resumed = train(planned, tmp_path / "stopped")
    assert_same_bits(resumed, uninterrupted)
    assert without_times(read_metrics(tmp_path / "stopped")) == without_times(uninterrupted.rows)
    layer_norms = [path.read_bytes() for path in tmp_path.glob("*/layer_norms.csv")]
    assert len(layer_norms) == 2 and layer_norms[0] == layer_norms[1]
    for one, other in zip(uninterrupted.emas, resumed.emas, strict=True):
        ema_weights = other.model.state_dict()
        for name, weight in one.model.state_dict().items():
            assert torch.equal(ema_weights[name], weight), name


def test_a_yaml_file_adds_an_optimizer_of_torch(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    (tmp_path / "mine" / "optim" / "nadam.yaml").write_text(
        "_target_: torch.optim.NAdam\nlr: 0.002\nmomentum_decay: 0.004\n"
    )
    result = command(
        "--config-dir",
        "mine",
        "experiment=quickstart",
        "optim=nadam",
        "trainer.max_steps=2",
        "data.limit_train=128",
        "data.limit_test=16",
        "trainer.threads=1",
        "hydra.run.dir=run",
    )
    assert result.returncode == 0, result.stderr
    record = Record.read(tmp_path / "run")
    assert record.choices["optim"] == "nadam"
    assert record.config["optim"]["momentum_decay"] == 0.004
