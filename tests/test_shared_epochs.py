"""Epochs that several runs share: their keys, runs that continue others, and sweeps."""

import re
import shutil
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import pytest
from conftest import Command, Once
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import (
    STANDARD,
    Recorder,
    assert_same_bits,
    config,
    open_run,
    train,
    without_times,
)
from small_sweep import (
    SHARED_GRID,
    TINY,
    assert_same_runs,
    finish,
    numbers,
    records,
    results,
    start,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_launchers import LAUNCHERS
from torch import Tensor

from resnet_sweep.__main__ import main
from resnet_sweep.config.epoch_keys import hash_settings
from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps import plan
from resnet_sweep.sweeps.epoch_tree import find_start
from resnet_sweep.sweeps.launchers import HydraLauncher, InProcessLauncher
from resnet_sweep.training.callbacks.tensorboard import TensorBoard
from resnet_sweep.training.checkpoint import (
    BEST,
    LAST,
    digest,
    kept_copies,
    kept_copy,
    read_checkpoint,
)
from resnet_sweep.training.schedules import Constant
from resnet_sweep.training.signals import StopSignal
from resnet_sweep.training.trainer import Trainer

SCHEDULES = "resnet_sweep.training.schedules."
CUTMIX = {"cutmix": {"_target_": "resnet_sweep.augmentation.CutMix"}}


class SlowsDown(Constant):
    """A schedule of a user, whose learning rate depends on the metrics."""

    def observe(self, row: dict) -> None:
        self.lr = min(self.lr, 1 / row["train_loss"])


def step(milestones: list[float], gamma: float) -> dict:
    return {
        "_target_": SCHEDULES + "MultiStep",
        "milestones": milestones,
        "gamma": gamma,
        "warmup_epochs": 1,
    }


def constant(warmup: float = 0) -> dict:
    return {"_target_": SCHEDULES + "Constant", "warmup_epochs": warmup}


def keys(**changes: object) -> list[str]:
    """Return the keys of a run with six epochs."""
    return plan_run(config(**{"trainer__epochs": 6, **changes})).epoch_keys().keys


def shared(one: list[str], other: list[str]) -> int:
    """Return the number of first epochs in which two runs agree."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class TestKeys:
    def test_runs_share_the_epochs_before_they_differ(self) -> None:
        first = keys(schedule=step([0.6, 0.8], 0.1))
        # The warm-up is one epoch long, so the first milestone is after 1 + 0.6 * 5 epochs.
        assert shared(first, keys(schedule=step([0.6, 0.8], 0.5))) == 4
        assert shared(first, keys(schedule=step([0.6], 0.1))) == 5
        assert shared(first, keys(schedule=step([0.2], 0.1))) == 2
        assert shared(first, keys(schedule=constant(1))) == 4

    def test_a_longer_run_with_a_constant_rate_shares_all_epochs_of_a_shorter_one(self) -> None:
        shorter = keys(schedule=constant(1))
        longer = keys(schedule=constant(1), trainer__epochs=9)
        assert len(longer) == 9
        assert shared(longer, shorter) == 6

    def test_early_stopping_changes_no_key(self) -> None:
        assert keys(trainer__early_stopping={"epoch": 4}) == keys()[:4]
        assert keys(trainer__early_stopping={"patience": 2, "metric": "val_loss"}) == keys()

    def test_a_smaller_size_is_shared_by_runs_with_other_later_sizes(self) -> None:
        sizes = keys(trainer__progressive_resizing=[4, 8])
        assert shared(sizes, keys(trainer__progressive_resizing=[4, 4, 8])) == 3
        assert shared(sizes, keys(trainer__progressive_resizing=[8])) == 0

    def test_an_operation_that_is_switched_off_later_is_shared_until_then(self) -> None:
        late, early = (
            keys(augmentation=STANDARD | {"cutmix": CUTMIX["cutmix"] | {"until": until}})
            for until in (0.8, 0.5)
        )
        always = keys(augmentation=STANDARD | CUTMIX)
        assert shared(late, early) == 3
        assert shared(late, always) == 5

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 4},
            {"optim__lr": 0.2},
            {"optim__weight_decay": 0.0},
            {"trainer__batch_size": 20},
            {"trainer__ema_decay": 0.9},
            {"trainer__threads": 2},
            {"data__limit_train": 99},
            {"model__dropout": 0.2},
            {"augmentation": {}},
            {"loss__label_smoothing": 0.1},
        ],
        ids=str,
    )
    def test_other_settings_act_from_the_first_epoch(self, changes: dict) -> None:
        assert shared(keys(schedule=constant()), keys(schedule=constant(), **changes)) == 0

    def test_a_nested_setting_named_until_acts_from_the_first_epoch(self) -> None:
        settings = [config(augmentation={"mine": {"options": {"until": n}}}) for n in (3, 5)]
        one, other = (
            hash_settings(each, "float32", {}, Constant(lr=0.1, epochs=3, steps_per_epoch=7), {})
            for each in settings
        )
        assert one != other

    def test_a_schedule_that_depends_on_metrics_shares_only_with_equal_settings(self) -> None:
        plateau = {"_target_": SCHEDULES + "Plateau", "patience": 2}
        assert shared(keys(schedule=plateau), keys(schedule=plateau | {"patience": 3})) == 0
        assert shared(keys(schedule=plateau), keys(schedule=plateau, trainer__epochs=7)) == 0
        stopped = keys(schedule=plateau, trainer__early_stopping={"epoch": 4})
        assert shared(keys(schedule=plateau), stopped) == 4

    def test_a_users_schedule_that_reads_metrics_depends_on_them(self) -> None:
        schedule = SlowsDown(lr=0.1, epochs=3, steps_per_epoch=2)
        assert schedule.depends_on_metrics
        assert not Constant(lr=0.1, epochs=3, steps_per_epoch=2).depends_on_metrics

    @settings(max_examples=15, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from([[0.5], [0.5, 0.75], [0.75]]),
                st.sampled_from([0.1, 0.5]),
                st.integers(4, 6),
                st.none() | st.integers(2, 3),
            ),
            min_size=2,
            max_size=2,
        )
    )
    def test_keys_are_equal_exactly_as_long_as_all_rates_are(self, pair: list[tuple]) -> None:
        plans = [
            plan_run(
                config(
                    schedule=step(milestones, gamma),
                    trainer__epochs=epochs,
                    trainer__early_stopping={"epoch": last},
                )
            )
            for milestones, gamma, epochs, last in pair
        ]
        all_keys = [plan.epoch_keys().keys for plan in plans]
        trainers = [plan.build_trainer() for plan in plans]
        rates = [
            [
                [trainer.schedule(epoch * trainer.steps_per_epoch + i) for i in range(7)]
                for epoch in range(len(found))
            ]
            for trainer, found in zip(trainers, all_keys, strict=True)
        ]
        assert trainers[0].steps_per_epoch == 7
        assert shared(*all_keys) == shared(*rates)


class TestUntil:
    def test_an_operation_is_applied_in_the_first_epochs_only(self, tmp_path: Path) -> None:
        """Without the last epochs of CutMix, they are those of a run without CutMix."""
        cutmix = CUTMIX["cutmix"] | {"probability": 1.0, "until": 0.5}
        trainer = plan_run(config(augmentation=cutmix_only(cutmix), trainer__epochs=4))
        calls: list[int] = []
        built = trainer.build_trainer()
        operation = built.augmentation[0]

        def record(*arguments: object) -> object:
            calls.append(len(built.rows))
            return operation(*arguments)

        built.augmentation = [record]
        run = open_run(trainer, tmp_path / "run")
        built.fit(run, (), StopSignal())
        run.close("finished")
        assert {*calls} == {0, 1}

    def test_all_epochs_are_the_default_and_keep_the_signature(self) -> None:
        plain = plan_run(config(augmentation=CUTMIX))
        always = plan_run(config(augmentation=cutmix_only(CUTMIX["cutmix"] | {"until": 1.0})))
        half = plan_run(config(augmentation=cutmix_only(CUTMIX["cutmix"] | {"until": 0.5})))
        assert plain.signature == always.signature != half.signature


def cutmix_only(node: dict) -> dict:
    return {"cutmix": node}


def with_cutmix(until: float) -> dict:
    return STANDARD | {"cutmix": CUTMIX["cutmix"] | {"until": until}}


# Changes of a run, those of another run that continues it, and the epochs that they share.
PAIRS: dict[str, tuple[dict, dict, int]] = {
    "gamma": ({"schedule": step([0.5], 0.1)}, {"schedule": step([0.5], 0.5)}, 2),
    "milestones": ({"schedule": step([0.5], 0.1)}, {"schedule": step([0.8], 0.1)}, 2),
    "early stop": ({}, {"trainer__early_stopping": {"epoch": 2}}, 2),
    "length": ({"schedule": constant(), "trainer__epochs": 3}, {"schedule": constant()}, 3),
    "shorter": ({"schedule": constant()}, {"schedule": constant(), "trainer__epochs": 3}, 3),
    "mixing": ({"augmentation": with_cutmix(1)}, {"augmentation": with_cutmix(0.5)}, 2),
    "sizes": (
        {"trainer__progressive_resizing": [4, 8], "schedule": constant()},
        {"trainer__progressive_resizing": [4, 8, 8, 8], "schedule": constant()},
        1,
    ),
    "average": (
        {"schedule": step([0.5], 0.1), "trainer__ema_decay": 0.9},
        {"schedule": step([0.5], 0.5), "trainer__ema_decay": 0.9},
        2,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_that_continues_another_equals_the_lone_run(name: str, tmp_path: Path) -> None:
    first, second, epochs = PAIRS[name]
    common = {"trainer__epochs": 4, "model__dropout": 0.1}
    one, other = (plan_run(config(**(common | changes))) for changes in (first, second))
    assert shared(one.epoch_keys().keys, other.epoch_keys().keys) == epochs
    lone = train(other, tmp_path / "lone")
    train(one, tmp_path / "sweep" / "0", keep_epochs=[epochs])
    recorder = Recorder()
    start = {"directory": "../0", "epochs": epochs}
    continued = train(other, tmp_path / "sweep" / "1", recorder, start_from=start)
    assert all(step.epoch > epochs for step in recorder.steps)
    assert [row["epoch"] for row in recorder.rows] == [*range(epochs + 1, len(lone.rows) + 1)]
    assert Record.read(tmp_path / "sweep" / "1").shared_epochs == start
    assert_equal_runs(tmp_path / "sweep" / "1", tmp_path / "lone")
    assert_same_bits(continued, lone)


@pytest.mark.parametrize("patience", [1, 2, 9])
def test_a_run_that_stops_early_by_a_metric_continues_the_epoch_of_its_stop(
    patience: int, tmp_path: Path
) -> None:
    """The learning rate is so large that the accuracy doesn't improve for long."""
    common = {"trainer__epochs": 5, "optim__lr": 3.0, "schedule": constant()}
    rule = {"patience": patience, "metric": "val_acc", "min_delta": 5.0}
    one = plan_run(config(**common))
    other = plan_run(config(trainer__early_stopping=rule, **common))
    train(one, tmp_path / "0", keep_stops=[rule])
    lone = train(other, tmp_path / "lone")
    recorder = Recorder()
    start = {"directory": "../0", "epochs": 5}
    train(other, tmp_path / "1", recorder, start_from=start)
    assert not recorder.steps
    assert (len(lone.rows) < 5) is (patience < 9)
    assert kept_copies(tmp_path / "0" / "checkpoints") == [len(lone.rows)] * (patience < 9)
    assert_equal_runs(tmp_path / "1", tmp_path / "lone")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Assert that two runs are equal, bit for bit, but for times."""
    assert without_times(read_metrics(one)) == without_times(read_metrics(other))
    norms = [(folder / "layer_norms.csv").read_bytes() for folder in (one, other)]
    assert norms[0] == norms[1]
    for name in (LAST, BEST):
        states = [read_checkpoint(folder / "checkpoints" / name) for folder in (one, other)]
        for state in states:
            if "rows" in state:
                state["rows"] = without_times(state["rows"])
        assert digest(states[0]) == digest(states[1])
    first, second = Record.read(one), Record.read(other)
    for field in ("best", "final", "gap", "epoch_key", "signature", "state"):
        assert getattr(first, field) == getattr(second, field)


def test_tensorboard_shows_the_shared_epochs(tmp_path: Path) -> None:
    one, other = (plan_run(config(schedule=step([0.5], gamma))) for gamma in (0.1, 0.5))
    train(one, tmp_path / "0", keep_epochs=[1])
    start = {"directory": "../0", "epochs": 1}
    train(other, tmp_path / "1", TensorBoard(), start_from=start)
    train(other, tmp_path / "lone", TensorBoard())
    shown = []
    for name in ("1", "lone"):
        events = EventAccumulator(str(tmp_path / name / "tensorboard"))
        events.Reload()
        tags = {tag for tag in events.Tags()["scalars"] if not tag.startswith("step/")}
        tags -= {"epoch/seconds", "epoch/images_per_second"}
        shown.append(
            {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
        )
    assert shown[0].keys() == shown[1].keys()
    for tag, values in shown[0].items():
        assert [step for step, _ in values] == [step for step, _ in shown[1][tag]]
        # layer_norms.csv has six digits.
        assert [value for _, value in values] == pytest.approx(
            [value for _, value in shown[1][tag]], rel=1e-5
        )


def remove(path: Path) -> None:
    path.unlink()


def flip_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def replace_by_other_epoch(path: Path) -> None:
    shutil.copy(kept_copy(path.parent, 1), path)


@pytest.mark.parametrize("damage", [remove, flip_bits, replace_by_other_epoch])
def test_a_damaged_copy_costs_its_epochs_only(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    common = {"trainer__epochs": 3, "data__limit_train": 64}
    one = plan_run(config(schedule=step([0.5], 0.1), **common))
    other = plan_run(config(schedule=step([0.5], 0.5), **common))
    train(one, tmp_path / "0", keep_epochs=[1, 2])
    damage(kept_copy(tmp_path / "0" / "checkpoints", 2))
    train(other, tmp_path / "1", start_from={"directory": "../0", "epochs": 2})
    train(other, tmp_path / "lone")
    assert_equal_runs(tmp_path / "1", tmp_path / "lone")


def test_a_run_doesnt_continue_itself(tmp_path: Path) -> None:
    found = plan_run(config()).epoch_keys()
    ended = {found.keys[-1]: tmp_path / "a"}
    assert find_start(found, ended, tmp_path / "a") is None
    start = find_start(found, ended, tmp_path / "b")
    assert start == {"directory": "../a", "epochs": found.epochs}


def epochs_line(output: str) -> list[int]:
    """Return the numbers of epochs that are requested, and that are to train."""
    (line,) = re.findall(r".*epochs requested.*", output)
    return numbers(line)[:2]


class TestSweep:
    def test_each_epoch_is_trained_once(self, call: Command, tmp_path: Path) -> None:
        """Two epochs are common to all jobs, and a third one to the two jobs with a milestone."""
        grid = (*SHARED_GRID, "data.limit_train=64", "data.limit_test=20")
        result = call(main, *grid)
        assert result.returncode == 0, result.stdout + result.stderr
        assert epochs_line(result.stdout) == [16, 2 + 2 * 2 + 1 + 2 * 1]
        call(main, *grid, "hydra.sweep.dir=alone", "share_epochs=false", "reuse=false")
        for name in records(tmp_path / "sweep"):
            assert_equal_runs(tmp_path / "sweep" / name, tmp_path / "alone" / name)
        found = {
            name: record["shared_epochs"] and record["shared_epochs"]["epochs"]
            for name, record in records(tmp_path / "sweep").items()
        }
        assert found == {"0": None, "1": 2, "2": 2, "3": 3}
        assert all(
            record["shared_epochs"] is None for record in records(tmp_path / "alone").values()
        )
        one, other = (results(tmp_path / name) for name in ("sweep", "alone"))
        for row in (*one, *other):
            del row["seconds"]
        assert one == other
        # No job needs the copies any more.
        assert not [*tmp_path.rglob("epoch_*.pth")]

    @pytest.mark.slow
    def test_all_lengths_of_how_long_equal_lone_runs(self, call: Command, tmp_path: Path) -> None:
        lengths = ("--multirun", *TINY, "sweep=how_long", "trainer.epochs=10")
        result = call(main, *lengths, "hydra.sweep.dir=sweep")
        assert result.returncode == 0, result.stdout + result.stderr
        requested, to_train = epochs_line(result.stdout)
        assert requested == sum(range(1, 11))
        found = records(tmp_path / "sweep")
        shared = [record["shared_epochs"] for record in found.values()]
        assert to_train == requested - sum(start["epochs"] for start in shared if start)
        assert to_train < requested / 2
        call(main, *lengths, "hydra.sweep.dir=alone", "share_epochs=false", "reuse=false")
        assert sorted(record["config"]["trainer"]["epochs"] for record in found.values()) == [
            *range(1, 11)
        ]
        for name in found:
            assert_equal_runs(tmp_path / "sweep" / name, tmp_path / "alone" / name)

    def test_a_longer_job_continues_a_finished_run(self, call: Command, tmp_path: Path) -> None:
        """A copy of the run isn't needed, and `reuse=false` ignores the run."""
        common = ("--multirun", *TINY, "schedule=constant", "data.limit_train=64")
        longer = (*common, "trainer.epochs=4", "hydra.sweep.dir=multirun/longer")
        call(main, *common, "hydra.sweep.dir=multirun/shorter")
        assert "requested" not in call(main, *longer, "dry_run=true", "reuse=false").stdout
        assert "requested" not in call(main, *longer, "dry_run=true", "share_epochs=false").stdout
        assert epochs_line(call(main, *longer, "dry_run=true").stdout) == [4, 2]
        call(main, *longer)
        call(main, *longer, "hydra.sweep.dir=alone", "share_epochs=false")
        run = tmp_path / "multirun" / "longer" / "0"
        assert Record.read(run).shared_epochs == {"directory": "../../shorter/0", "epochs": 2}
        # The second command reused the run instead of training it.
        assert Record.read(tmp_path / "alone" / "0").reused_from is not None
        call(main, *longer, "hydra.sweep.dir=alone", "share_epochs=false", "reuse=false")
        assert_equal_runs(run, tmp_path / "alone" / "0")

    @pytest.mark.parametrize("fault", ["other threads", "unreadable"])
    def test_a_run_that_cannot_be_continued_costs_only_its_epochs(
        self, fault: str, call: Command, tmp_path: Path
    ) -> None:
        common = ("--multirun", *TINY, "schedule=constant", "data.limit_train=64")
        call(main, *common, "hydra.sweep.dir=multirun/shorter")
        shorter = tmp_path / "multirun" / "shorter" / "0"
        if fault == "unreadable":
            last = shorter / "checkpoints" / LAST
            last.unlink()
            last.mkdir()
        else:
            record = Record.read(shorter)
            record.threads = 7
            record.write(shorter)
        result = call(main, *common, "trainer.epochs=3", "hydra.sweep.dir=multirun/longer")
        assert result.returncode == 0, result.stdout + result.stderr
        record = Record.read(tmp_path / "multirun" / "longer" / "0")
        assert (record.state, record.shared_epochs) == ("finished", None)

    def test_a_run_is_continued_through_a_link(self, call: Command, tmp_path: Path) -> None:
        """The path to the run contains "..", which the system resolves after a link."""
        common = ("--multirun", *TINY, "schedule=constant", "data.limit_train=64")
        call(main, *common, "hydra.sweep.dir=outputs/shorter")
        (tmp_path / "disk" / "deep").mkdir(parents=True)
        (tmp_path / "multirun").symlink_to(tmp_path / "disk" / "deep")
        call(main, *common, "trainer.epochs=3", "hydra.sweep.dir=multirun/longer")
        record = Record.read(tmp_path / "multirun" / "longer" / "0")
        assert record.shared_epochs is not None and record.shared_epochs["epochs"] == 2

    @pytest.mark.slow
    @pytest.mark.parametrize("epoch", [1, 2])
    def test_jobs_continue_each_other_if_the_first_one_fails(
        self, epoch: int, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next job continues the last checkpoint of the failed job, which is retried."""
        train_step, failures = Trainer.train_step, 0

        def fail_once(trainer: Trainer, *arguments: Tensor) -> None:
            nonlocal failures
            if not failures and len(trainer.rows) == epoch - 1:
                failures += 1
                raise OSError("no space left on device")
            train_step(trainer, *arguments)

        swept = ("schedule.milestones", "schedule.gamma")
        grid = [word for word in SHARED_GRID if not word.startswith(swept)]
        grid.append("schedule.gamma=0.1,0.5,0.8")
        monkeypatch.setattr(Trainer, "train_step", fail_once)
        assert call(main, *grid).returncode == 1
        found = records(tmp_path / "sweep")
        states = [record["state"] for record in found.values()]
        assert states == ["failed", "finished", "finished"]
        last = {"directory": "../0", "epochs": epoch - 1}
        assert found["1"]["shared_epochs"] == (last if epoch > 1 else None)
        assert found["2"]["shared_epochs"] == {"directory": "../1", "epochs": 2}
        assert call(main, *grid).returncode == 0
        call(main, *grid, "hydra.sweep.dir=alone", "share_epochs=false", "reuse=false")
        for name in found:
            assert_equal_runs(tmp_path / "sweep" / name, tmp_path / "alone" / name)
        assert not [*tmp_path.rglob("epoch_*.pth")]

    def test_copies_are_limited_to_a_part_of_the_disk(
        self, call: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without space for a copy, each job trains its own epochs."""
        monkeypatch.setattr(plan, "space_for_copies", lambda directory: 1000)
        output = call(main, *SHARED_GRID, "dry_run=true").stdout
        assert "requested" not in output
        assert "disk" in output

    def test_the_space_of_the_copies_includes_frozen_weights(self, call: Command) -> None:
        grid = (*SHARED_GRID, "dry_run=true")
        outputs = [call(main, *grid, *more).stdout for more in ((), ("trainer.freeze=[stages*]",))]
        sizes = [re.findall(r"about ([\d.]+) MB", output) for output in outputs]
        assert sizes[0] == sizes[1], outputs
        assert float(*sizes[0]) > 0.1

    @pytest.mark.slow
    @pytest.mark.parametrize("launcher", LAUNCHERS)
    def test_launchers_give_the_results_of_lone_runs(
        self, launcher: str, tmp_path: Path, once: Once
    ) -> None:
        def train_alone(folder: Path) -> None:
            finish(start(folder, *SHARED_GRID, "share_epochs=false"))

        alone = once("alone", train_alone) / "sweep"
        process = start(tmp_path, *SHARED_GRID, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
        output = finish(process)
        assert process.returncode == 0, output
        assert_same_runs(tmp_path / "sweep", alone)
        found = records(tmp_path / "sweep").values()
        assert sum(record["shared_epochs"] is not None for record in found) == 3


def test_a_trial_continues_the_run_of_an_earlier_trial(call: Command, tmp_path: Path) -> None:
    common = [word for word in TINY if not word.startswith("trainer.epochs")]
    common += ["schedule=constant", "data.limit_train=64"]
    study = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=study")
    trials = "hydra.sweeper.enqueue=[{trainer.epochs: 2}, {trainer.epochs: 3}]"
    result = call(main, "--multirun", *common, *study, "trainer.epochs=2,3", trials)
    assert result.returncode == 0, result.stdout + result.stderr
    found = [record["shared_epochs"] for record in records(tmp_path / "study").values()]
    assert found == [None, {"directory": "../0", "epochs": 2}]
    call(main, *common, "trainer.epochs=3", "hydra.run.dir=alone")
    assert_equal_runs(tmp_path / "study" / "1", tmp_path / "alone")


class Plugin:
    """A launcher plugin of Hydra that only records its jobs."""

    def __init__(self) -> None:
        self.launched: list[list[str]] = []

    def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list:
        self.launched.append([job[-1].rpartition("=")[2].strip("'") for job in overrides])
        return [None] * len(overrides)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    plugin = Plugin()
    monkeypatch.setattr(HydraLauncher, "_plugin", lambda launcher, work: plugin)
    return plugin


def test_a_plugin_of_hydra_gets_the_jobs_in_waves(plugin: Plugin) -> None:
    """A job that waits for one that never gives it a copy is in the next wave."""
    ended: list[str] = []
    needs = {"b": "a", "d": "c", "e": "nothing"}
    HydraLauncher(None, None, lambda directory: []).launch(
        print,
        [Path(name) for name in "badec"],
        "log",
        lambda directory, reason: ended.append(directory.name),
        lambda directory: needs.get(directory.name) in (None, *ended),
    )
    assert plugin.launched == [["a", "c"], ["b", "d"], ["e"]]
    assert {*ended} == {*"abcde"}


def test_the_basic_launcher_does_first_what_others_need() -> None:
    done: list[str] = []
    InProcessLauncher().launch(
        lambda directory: done.append(directory.name),
        [Path(name) for name in "abc"],
        "log",
        lambda directory, reason: None,
        lambda directory: directory.name != "a" or "c" in done,
    )
    assert done == ["b", "c", "a"]
