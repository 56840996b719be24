"""The promotion of pruned trials: the rule, the trial queue, and studies by the command line."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import torch
from conftest import Command
from optuna.trial import TrialState
from processes import assert_refused
from small_run import without_times
from test_study_workers import (
    SMALL,
    STUDY,
    Workers,
    check_resumed,
    kill_at_random,
    load,
    rows,
)

from benchmarks.study_replay import replay
from resnet_sweep.__main__ import main
from resnet_sweep.compare.objective import Objective
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.studies.promotion import PausedTrials, promoted_share
from resnet_sweep.studies.trial_queue import CONTINUES, PAUSED_AT, TrialQueue, latest_states
from resnet_sweep.studies.worker import PruningCallback
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint
from resnet_sweep.training.signals import Interrupted


def ended(values: Sequence[float], state: TrialState) -> optuna.trial.FrozenTrial:
    """Return a trial that has ended, with a value for each epoch from 1."""
    value = max(values) if state is TrialState.COMPLETE else None
    return optuna.trial.create_trial(
        state=state, value=value, intermediate_values=dict(enumerate(values, start=1))
    )


class TestRule:
    @pytest.mark.parametrize("factor", [2, 3, 4])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_it_promotes_the_trials_that_asha_promotes(self, factor: int, sign: int) -> None:
        # The candidates of `get_job` in Algorithm 2 of Li et al. (2020), with all epochs as rungs.
        rng = random.Random(factor)
        paused = PausedTrials(lambda value: sign * value, 1 / factor)
        curves, lengths, promoted = {}, {}, set()
        for number in range(40):
            curves[number] = [rng.random() for _ in range(rng.randint(1, 4))]
            lengths[number] = len(curves[number])
            trial = ended(curves[number], TrialState.PRUNED)
            paused.add(trial, number, 0, "pruned")
            expected = None
            for epoch in (4, 3, 2, 1):
                rung = {k: sign * v[epoch - 1] for k, v in curves.items() if len(v) >= epoch}
                best = sorted(rung, key=rung.get, reverse=True)[: len(rung) // factor]
                candidates = [k for k in best if lengths[k] == epoch and k not in promoted]
                if candidates and expected is None:
                    expected = candidates[0]
            assert paused.promotable() == expected
            if expected is not None:
                paused.remove(expected)
                promoted.add(expected)
        assert promoted

    def test_a_trial_that_diverges_makes_room_for_another(self) -> None:
        paused = PausedTrials(lambda value: value, 0.5)
        paused.add(ended([0.9], TrialState.PRUNED), 0, 0, "pruned")
        paused.add(ended([0.5], TrialState.PRUNED), 1, 0, "pruned")
        assert paused.promotable() == 0
        paused.remove(0)
        assert paused.promotable() is None
        # Trial 0 continued, and diverged after another epoch.
        paused.add(ended([0.9, 0.1], TrialState.PRUNED), 0, 1, "diverged")
        assert paused.promotable() == 1

    def test_the_most_promising_trial_has_the_best_prediction(self) -> None:
        paused = PausedTrials(lambda value: value, 0.1)
        paused.add(ended([0.4, 0.6, 0.7], TrialState.COMPLETE), 0, 0, "finished")
        # By the increases of trial 0, these reach 0.2 + 0.3 and 0.45 + 0.1.
        paused.add(ended([0.2], TrialState.PRUNED), 1, 0, "pruned")
        assert paused.most_promising() == 1
        paused.add(ended([0.1, 0.45], TrialState.PRUNED), 2, 0, "pruned")
        assert paused.most_promising() == 2
        paused.remove(2)
        paused.remove(1)
        assert paused.most_promising() is None

    @pytest.mark.parametrize(
        ("pruner", "share"),
        [
            (None, 1 / 3),
            ({"_target_": "optuna.pruners.MedianPruner"}, 1 / 2),
            ({"_target_": "optuna.pruners.PercentilePruner", "percentile": 25.0}, 1 / 4),
            ({"_target_": "optuna.pruners.HyperbandPruner", "reduction_factor": 5}, 1 / 5),
        ],
    )
    def test_its_share_is_that_of_the_pruner(self, pruner: dict | None, share: float) -> None:
        assert promoted_share(pruner) == share


def test_epochs_that_are_reported_together_have_stages_of_their_own(tmp_path: Path) -> None:
    """The stages of shared epochs, and of a killed worker, are those of a run without them."""
    stages = []
    rows = [{"epoch": epoch, "val_acc": 10.0 * epoch} for epoch in range(1, 5)]
    for together in (False, True):
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        study = optuna.create_study(pruner=pruner, direction="maximize")
        callback = PruningCallback(study.ask(), Objective(), 8, set())
        if together:
            lines = [",".join(map(str, row.values())) for row in rows]
            (tmp_path / "metrics.csv").write_text("\n".join(["epoch,val_acc", *lines, ""]))
            callback.on_train_start(tmp_path, 4)
        else:
            for row in rows:
                callback.on_epoch_end(row, [], 0)
        stages.append(study.trials[0].system_attrs)
    assert len(stages[0]) == 3
    assert stages[0] == stages[1]


class TestQueue:
    def test_a_promoted_trial_is_one_trial_and_is_not_a_duplicate(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, direction="maximize")
        queue = TrialQueue(study, storage, tmp_path, 3, PausedTrials(lambda value: value, 1 / 3))

        def end(values: Sequence[float], state: TrialState) -> int:
            lock = queue.take()
            trial = optuna.Trial(study, lock.id)
            trial.suggest_float("lr", 0, 1)
            if not lock.is_continuation:
                assert not queue.mark_if_duplicate(trial, f"signature {lock.number}")
            for step, value in enumerate(values, start=1):
                trial.report(value, step)
            result = [max(values)] if state is TrialState.COMPLETE else None
            queue.end(trial, state, result)
            lock.release()
            return lock.number

        assert end([0.5], TrialState.PRUNED) == 0
        assert end([0.4], TrialState.PRUNED) == 1
        assert not queue.is_done()
        # With three trials, the best of them is promoted, after the third one has ended.
        assert end([0.3], TrialState.PRUNED) == 2
        assert not queue.is_done()
        assert end([0.5, 0.6], TrialState.COMPLETE) == 0
        assert queue.is_done() and queue.take() is None
        assert [trial.number for trial in queue.trials()] == [3, 1, 2]
        last = study.trials[3]
        assert (last.user_attrs[CONTINUES], last.user_attrs[PAUSED_AT]) == (0, 1)
        assert last.params == study.trials[0].params
        assert latest_states(study.trials) == study.trials[1:]
        # Another process sees the same, and a new trial with the parameters is a duplicate.
        other = TrialQueue(study, storage, tmp_path, 4, PausedTrials(lambda value: value, 1 / 3))
        assert [trial.number for trial in other.trials()] == [3, 1, 2]
        lock = other.take()
        assert lock.number == 4
        trial = optuna.Trial(study, lock.id)
        assert other.mark_if_duplicate(trial, "signature 0")
        lock.release()
        assert other.take() is None
        assert study.trials[4].values == [0.6]


# The pruner ends all but the first of these trials after an epoch. As the last two are worse than
# the second one, the second one is promoted.
PROMOTING = (
    *STUDY,
    "hydra.sweep.dir=study",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.enqueue=[{optim.lr:0.07},{optim.lr:0.1},{optim.lr:0.05},{optim.lr:0.2}]",
    "hydra/sweeper/pruner=successive_halving",
    "hydra.sweeper.pruner.reduction_factor=2",
    "hydra.sweeper.promote=true",
)


def continued(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if CONTINUES in trial.user_attrs]


def assert_same_as_alone(call: Command, run: Path, folder: Path) -> None:
    """Assert that a run is equal, bit for bit, to the same run alone."""
    row = next(row for row in rows(run.parent) if row["directory"] == run.name)
    alone = (*SMALL, f"optim.lr={row['optim.lr']}", "hydra.run.dir=alone", "reuse=false")
    result = call(main, *alone)
    assert result.returncode == 0, result.stderr
    found, expected = (without_times(read_metrics(path)) for path in (run, folder / "alone"))
    assert found == expected[: len(found)]
    if len(found) == 3:
        for name in (BEST, LAST):
            first, second = (
                read_checkpoint(path / "checkpoints" / name)["model"]
                for path in (run, folder / "alone")
            )
            assert all(torch.equal(first[key], second[key]) for key in first)


class TestStudy:
    @pytest.mark.slow
    def test_a_promoted_trial_continues_its_run_bit_for_bit(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop_once(callback: PruningCallback, *arguments: object) -> None:
            on_epoch_end(callback, *arguments)
            if callback.paused_at:
                monkeypatch.setattr(PruningCallback, "on_epoch_end", on_epoch_end)
                raise Interrupted(signal.SIGTERM)

        on_epoch_end = PruningCallback.on_epoch_end
        monkeypatch.setattr(PruningCallback, "on_epoch_end", stop_once)
        result = call(main, *PROMOTING)
        assert result.returncode == 75, result.stdout
        result = call(main, *PROMOTING)
        assert result.returncode == 0, result.stdout
        study = load(f"sqlite:///{tmp_path}/study/study.db")
        promoted = continued(study)
        assert promoted
        results = rows(tmp_path / "study")
        assert len(results) == 4
        assert {row["number"] for row in results} == {row["directory"] for row in results}
        for trial in promoted:
            number = str(trial.user_attrs[CONTINUES])
            first = study.trials[int(number)]
            assert first.state is TrialState.PRUNED
            assert first.last_step == trial.user_attrs[PAUSED_AT] < trial.last_step
            assert (first.params, trial.intermediate_values) == (
                trial.params,
                {**trial.intermediate_values, **first.intermediate_values},
            )
            (row,) = (row for row in results if row["number"] == number)
            assert float(row["value"]) == trial.value
        assert_same_as_alone(call, tmp_path / "study" / number, tmp_path)
        # No pruned trial is left that the rule would promote.
        latest = latest_states(study.trials)
        for trial in latest:
            if trial.state is TrialState.PRUNED:
                value, step = trial.intermediate_values[trial.last_step], trial.last_step
                others = [
                    other.intermediate_values[step]
                    for other in latest
                    if step in other.intermediate_values
                ]
                better = sum(other >= value for other in others)
                assert better > len(others) // 2

    @pytest.mark.slow
    def test_a_finished_study_is_extended_by_promotions(
        self, call: Command, tmp_path: Path
    ) -> None:
        without = [text for text in PROMOTING if text != "hydra.sweeper.promote=true"]
        result = call(main, *without)
        assert result.returncode == 0, result.stdout
        url = f"sqlite:///{tmp_path}/study/study.db"
        assert not continued(load(url))
        result = call(main, *PROMOTING)
        assert result.returncode == 0, result.stdout
        assert continued(load(url))
        assert "promoted after epoch" in result.stdout

    @pytest.mark.parametrize(
        ("overrides", "facts"),
        [
            (
                ["hydra.sweeper.promote=true", "hydra/sweeper/pruner=none"],
                ["hydra.sweeper.promote", "pruner"],
            ),
            (["hydra.sweeper.promote=maybe"], ["hydra.sweeper.promote", "maybe"]),
            (["hydra.sweeper.timeout=0"], ["hydra.sweeper.timeout", "0"]),
            (["hydra.sweeper.max_stagnation_trials=0"], ["hydra.sweeper.max_stagnation_trials"]),
            (["hydra.sweeper.confirm=0"], ["hydra.sweeper.confirm", "0"]),
            (
                [
                    "hydra.sweeper.confirm=1",
                    "objective=[val_acc,seconds]",
                    "hydra.sweeper.direction=[maximize,minimize]",
                ],
                ["hydra.sweeper.confirm", "2"],
            ),
        ],
    )
    def test_invalid_settings_are_refused(
        self, call: Command, tmp_path: Path, overrides: list[str], facts: list[str]
    ) -> None:
        assert_refused(call(main, *STUDY, "hydra.sweep.dir=study", *overrides), *facts)
        assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_promoted_trials_survive_the_kills_of_workers(tmp_path: Path) -> None:
    promoting = [text for text in PROMOTING[len(STUDY) :] if "n_trials" not in text]
    workers = Workers(tmp_path, *promoting, "hydra.sweeper.n_trials=16")
    directory = tmp_path / "study"
    try:
        killed = kill_at_random(workers, directory, kills=6, seed=5, count=3)
    finally:
        workers.end()
    assert len(killed) == 6
    check_resumed(killed)
    study = load(f"sqlite:///{directory}/study.db")
    assert continued(study)
    assert all(trial.state.is_finished() for trial in study.trials)
    results = {row["number"]: row for row in rows(directory)}
    latest = latest_states(study.trials)
    assert len(results) == len(latest) == 16
    for trial in latest:
        number = str(trial.user_attrs.get(CONTINUES, trial.number))
        curve = read_metrics(directory / number)
        assert trial.intermediate_values == {row["epoch"]: row["val_acc"] for row in curve}
        finished = trial.state is TrialState.COMPLETE
        assert results[number]["state"] == ("finished" if finished else "pruned")
        assert finished == (len(curve) == 3)
    # A trial that continues another one has its parameters and its values.
    for trial in continued(study):
        first = study.trials[trial.user_attrs[CONTINUES]]
        assert trial.params == first.params
        assert trial.intermediate_values.items() >= first.intermediate_values.items()


def test_replayed_searches_find_the_target_if_all_pruned_trials_are_promoted() -> None:
    results = replay(replays=4, trials=12, margin=0.0)
    full = results["random search"]
    # Each curve has 12 epochs.
    assert all(epochs <= 12 * 12 for epochs in full)
    for name, epochs in results.items():
        if name.endswith("promote all"):
            assert max(epochs) <= 12 * 12
