"""The answers agree with the runs, and their script continues after a stop."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import ROOT, Command
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from processes import assert_refused
from run_directories import COLUMNS, write_run

from benchmarks.answers import HANDWRITTEN, SECTIONS, TARGET, VERDICTS, main
from resnet_sweep.compare.collection import read_run

SCRIPT = ROOT / "benchmarks" / "answers.sh"
ACCURACIES = {
    "logged_run_1": [70.0, 71.0, 72.6],
    "cutmix": [72.1, 73.0, 74.5],
    "mixup": [68.9, 70.1, 71.6],
    "dropout_0.2": [70.3, 70.8, 72.7],
}


def write_recommended(top: Path) -> None:
    number = 0
    for lr, (name, accuracies) in enumerate(ACCURACIES.items(), start=1):
        for seed, accuracy in enumerate(accuracies):
            write_run(
                top / f"{number}",
                {"seed": seed, "optim.lr": lr},
                accuracy,
                choices={"experiment": name},
                overrides=[f"experiment={name}"],
                seed=seed,
            )
            number += 1


def write_curves(directory: Path, settings: dict, offset: float, **changes: object) -> None:
    """Write a run with the curves of logged_run_1, and `offset` added to its training accuracy."""
    write_run(directory, settings, overrides=[], **changes)
    rows = read_run("logged_run_1").metrics.rows
    lines = [
        f"{row['epoch']},,{row['train_loss']},{row['train_acc'] + offset},,{row['val_acc']},,1,"
        for row in rows
    ]
    (directory / "metrics.csv").write_text("\n".join([COLUMNS, *lines, ""]))


@pytest.fixture
def write(tmp_path: Path, call: Command) -> Callable[[], str]:
    """Return a function that writes the answers for the runs in `top`, and returns their text."""

    def run() -> str:
        result = call(main, "top", "-o", "answers.md")
        assert result.returncode == 0, result.stderr
        return (tmp_path / "answers.md").read_text()

    return run


TITLES = {folder: title for parts in SECTIONS.values() for folder, title, _ in parts}


def section(document: str, folder: str) -> str:
    """Return the section of the document about the runs in a folder."""
    title = TITLES[folder]
    assert document.count(f"### {title}\n") == 1
    return re.split(r"^##", document.partition(f"### {title}\n")[2], flags=re.MULTILINE)[0]


def recommendations(text: str, verdict: str) -> list[tuple[str, str]]:
    """Return the recommendations with a verdict and their effects, from a section."""
    (line,) = re.findall(rf"^{re.escape(VERDICTS[verdict])}: (.*)$", text, re.MULTILINE)
    return re.findall(r"`(\S+)` \(([^)]*)\)", line)


class TestDocument:
    def test_a_verdict_follows_from_the_interval_of_the_effect(self, tmp_path, write) -> None:
        write_recommended(tmp_path / "top" / "gpu" / "recommended")
        text = section(write(), "gpu/recommended")
        base = np.array(ACCURACIES["logged_run_1"])
        for name, verdict in (
            ("cutmix", "better"),
            ("mixup", "worse"),
            ("dropout_0.2", "within noise"),
        ):
            accuracies = np.array(ACCURACIES[name])
            effect = f"{(accuracies - base).mean():+.2f}"
            assert recommendations(text, verdict) == [(name, effect)]
            spread = f"{accuracies.mean():.2f} ± {accuracies.std(ddof=1):.2f}%"
            assert re.search(rf"^{name} +3 +{re.escape(spread)}", text, re.MULTILINE)
        for verdict in ("too few runs", "unstable"):
            assert recommendations(text, verdict) == []
        assert re.search(r"\b0, 1, 2\b.*\b12\b", text)

    def test_a_baseline_that_was_reused_from_another_sweep_counts(self, tmp_path, write) -> None:
        top = tmp_path / "top" / "gpu" / "recommended"
        write_recommended(top)
        expected = section(write(), "gpu/recommended")
        for path in top.glob("*/run.json"):
            record = json.loads(path.read_text())
            if record["choices"]["experiment"] == "logged_run_1":
                changes = {"signature": path.parent.name, "reused_from": "/gpu/readings/0"}
                path.write_text(json.dumps(record | changes))
        assert section(write(), "gpu/recommended") == expected

    def test_recommendations_with_diverged_seeds_are_unstable(self, tmp_path, write) -> None:
        top = tmp_path / "top" / "cpu" / "recommended"
        write_recommended(top)
        diverged = {"state": "diverged", "best": None, "final": None}
        for number, seed, lr, name in ((5, 2, 2, "cutmix"), (12, 0, 9, "plateau")):
            write_run(
                top / f"{number}",
                {"seed": seed, "optim.lr": lr},
                choices={"experiment": name},
                overrides=[f"experiment={name}"],
                seed=seed,
                **diverged,
            )
        text = section(write(), "cpu/recommended")
        base = np.array(ACCURACIES["logged_run_1"][:2])
        effect = (np.array(ACCURACIES["cutmix"][:2]) - base).mean()
        (cutmix, (plateau, plateau_effect)) = recommendations(text, "unstable")
        assert cutmix == ("cutmix", f"{effect:+.2f}")
        # All of its seeds diverged, so it has no effect.
        assert plateau == "plateau" and not re.search(r"\d", plateau_effect)
        assert recommendations(text, "better") == []
        assert re.search(r"\b13\b", text)

    def test_a_section_without_runs_names_the_command_that_makes_them(
        self, tmp_path, write
    ) -> None:
        write_recommended(tmp_path / "top" / "cpu" / "recommended")
        document = write()
        for folder in TITLES:
            command = f"`benchmarks/answers.sh {folder[:3]}`"
            assert (command in section(document, folder)) is (folder != "cpu/recommended")

    def test_without_any_run_the_command_is_refused_and_writes_nothing(
        self, tmp_path, call
    ) -> None:
        (tmp_path / "top").mkdir()
        result = call(main, "top", "-o", "answers.md")
        assert_refused(result, "top", "benchmarks/answers.sh gpu")
        assert not (tmp_path / "answers.md").exists()

    @pytest.mark.parametrize(("others", "within_noise"), [((4.0, 4.5), False), ((1.0, 4.0), True)])
    def test_the_nearest_candidate_is_compared_with_the_next(
        self, tmp_path, write, others: tuple[float, float], within_noise: bool
    ) -> None:
        top = tmp_path / "top" / "gpu" / "readings"
        for seed, (near, far) in enumerate(zip((1.0, 1.2), others, strict=True)):
            write_curves(top / f"{seed}", {"seed": seed, "optim.nesterov": True}, near)
            write_curves(top / f"{seed + 2}", {"seed": seed, "optim.nesterov": False}, -far)
        document = write()
        # The sentence about the first reference that has both candidates.
        sentence = re.search(
            r"^.*`logged_run_1`.*nesterov=true.*nesterov=false.*$", document, re.MULTILINE
        )[0]
        # The curves differ only in a column of weight 0.4, and by the same amount in all epochs.
        distances = [np.sqrt(0.4) * np.array(offsets) for offsets in ((1.0, 1.2), others)]
        nearest, next_nearest = (
            f"{values.mean():.2f} ± {values.std(ddof=1):.2f}" for values in distances
        )
        difference = f"{(distances[1] - distances[0]).mean():+.2f}"
        parts = (
            "`optim.nesterov=true`",
            nearest,
            "n = 2",
            "`optim.nesterov=false`",
            next_nearest,
            "n = 2",
            difference,
        )
        assert re.search(".*".join(map(re.escape, parts)), sentence)
        # The interval of the difference says whether the two can be distinguished.
        low, high = map(float, re.search(r"\[(\S+), (\S+)\]", sentence).groups())
        assert (low < 0 < high) is within_noise
        assert ("within noise" in sentence) is within_noise
        assert (tmp_path / "answers" / "gpu_readings.png").exists()

    def test_the_first_epochs_are_listed_with_those_of_the_log(self, tmp_path, write) -> None:
        write_run(tmp_path / "top" / "cpu" / "first_epochs" / "0", accuracy=20.0, overrides=[])
        text = section(write(), "cpu/first_epochs")
        second = read_run("logged_run_1").metrics.rows[1]
        assert second["epoch"] == 2
        expected = (
            rf"^logged_run_1, epoch 2 +1 +{second['val_acc']:.2f}% .* {second['train_loss']}$"
        )
        assert re.search(expected, text, re.MULTILINE)

    def test_the_key_epochs_of_the_log_are_listed_with_those_of_the_runs(
        self, tmp_path, write
    ) -> None:
        top = tmp_path / "top" / "gpu" / "readings"
        rows = {row["epoch"]: row for row in read_run("logged_run_1").metrics.rows}
        offsets = (2.0, 5.0)
        for seed, offset in enumerate(offsets):
            write_curves(
                top / f"{seed}", {"seed": seed}, offset, final={"val_loss": None, **rows[100]}
            )
        text = section(write(), "gpu/readings")
        for epoch in (1, 10, 25, 50, 75, 100):
            row = rows[epoch]
            log_row = rf"^ *{epoch}  logged_run_1 +{row['train_acc']:.2f}% +{row['val_acc']:.2f}% +"
            assert re.search(rf"{log_row}{row['train_loss']:.4f}$", text, re.MULTILINE)
            mean, sd = row["train_acc"] + np.mean(offsets), np.std(offsets, ddof=1)
            runs_row = (
                rf"^ *{epoch}  these runs +{mean:.2f} ± {sd:.2f}% +{row['val_acc']:.2f} ± 0.00% +"
            )
            assert re.search(runs_row, text, re.MULTILINE)
        assert not re.search(r"^ *11  logged_run_1", text, re.MULTILINE)

    def test_every_candidate_contributes_to_the_effect_of_every_setting(
        self, tmp_path, write
    ) -> None:
        top = tmp_path / "top" / "gpu" / "identify"
        offsets = {(True, 0.1): 1.0, (True, 0.2): 4.0, (False, 0.1): 2.5, (False, 0.2): 5.0}
        for number, ((nesterov, lr), points) in enumerate(offsets.items()):
            settings = {"optim.nesterov": nesterov, "optim.lr": lr}
            started = f"2026-01-02T03:04:0{9 - number}+00:00"
            write_curves(top / f"{number}", settings, points, started=started)
        text = section(write(), "gpu/identify")
        nesterov = np.sqrt(0.4) * ((1.0 + 4.0) - (2.5 + 5.0)) / 2
        lr = np.sqrt(0.4) * ((1.0 + 2.5) - (4.0 + 5.0)) / 2
        for name, effect in (
            ("optim.nesterov=true +false", nesterov),
            (r"optim.lr=0.1 +0.2", lr),
        ):
            assert re.search(rf"^{name} +{re.escape(f'{effect:+.2f}')} ± ", text, re.MULTILINE)

    def test_each_further_value_of_a_setting_is_compared_with_the_first(
        self, tmp_path, write
    ) -> None:
        top = tmp_path / "top" / "gpu" / "identify"
        offsets = {0.1: (1.0, 3.0), 0.2: (4.0, 4.5), 0.3: (6.0, 6.5)}
        for number, (lr, nesterov) in enumerate(itertools.product(offsets, (False, True))):
            settings = {"optim.nesterov": nesterov, "optim.lr": lr}
            started = f"2026-01-02T03:04:0{9 - number}+00:00"
            write_curves(top / f"{number}", settings, offsets[lr][nesterov], started=started)
        text = section(write(), "gpu/identify")
        for lr in (0.2, 0.3):
            effect = np.sqrt(0.4) * (np.mean(offsets[0.1]) - np.mean(offsets[lr]))
            row = rf"^optim.lr=0.1 +{lr} +{re.escape(f'{effect:+.2f}')} ± "
            assert re.search(row, text, re.MULTILINE)

    def test_unfinished_candidates_do_not_contribute_to_effects(self, tmp_path, write) -> None:
        top = tmp_path / "top" / "gpu" / "identify"
        for number in range(4):
            settings = {"optim.nesterov": number < 2, "optim.lr": 0.1 * (1 + number % 2)}
            state = "interrupted" if number == 3 else "finished"
            write_curves(top / f"{number}", settings, number, state=state)
        effect = re.compile(r"^optim.nesterov=true +false +\S+ ± ", re.MULTILINE)
        assert not effect.search(write())
        write_curves(top / "3", settings, number)
        assert effect.search(write())

    def test_the_best_trial_of_a_search_is_compared_with_the_recipe_it_started_from(
        self, tmp_path, write
    ) -> None:
        top = tmp_path / "top" / "cpu" / "study"
        rates = [0.1, 0.2, 0.05, 0.3, 0.4]
        for number, lr in enumerate(rates):
            # The accuracy doesn't depend on the dropout.
            settings = {"optim.lr": lr, "model.dropout": number % 2 / 10}
            state = "pruned" if number == 4 else "finished"
            write_run(top / f"{number}", settings, 50 + 100 * lr, overrides=[], state=state)
        study = optuna.create_study(
            storage=f"sqlite:///{top / 'study.db'}", study_name="any", direction="maximize"
        )
        distributions = {"lr": FloatDistribution(0.01, 0.5), "dropout": FloatDistribution(0.0, 0.4)}
        for number, lr in enumerate(rates):
            state = TrialState.PRUNED if number == 4 else TrialState.COMPLETE
            study.add_trial(
                create_trial(
                    state=state,
                    value=50 + 100 * lr,
                    distributions=distributions,
                    params={"lr": lr, "dropout": number % 2 / 10},
                )
            )
        text = section(write(), "cpu/study")
        assert "4 finished, 1 pruned" in text
        # The recipe's 0.1 has rank 3 among 0.3, 0.2, 0.1 and 0.05; pruned trials have no rank.
        assert re.search(r"\b3\b.*\+20\.00", text)
        (shares,) = re.findall(r"`lr` (\d+)%, `dropout` (\d+)%", text)
        assert int(shares[0]) + int(shares[1]) == 100
        assert int(shares[0]) > 50

    def test_the_time_to_the_target_ends_with_the_first_epoch_that_reaches_it(
        self, tmp_path, write
    ) -> None:
        for number, (epochs, last) in enumerate([(20, TARGET), (20, 70.0), (30, 80.0), (30, 75.0)]):
            directory = tmp_path / "top" / "gpu" / "lengths" / f"{number}"
            settings = {"trainer.epochs": epochs, "seed": number % 2}
            write_run(directory, settings, last, overrides=[], seed=number % 2)
            rows = [
                f"{epoch},,1,50,1,{acc},,{epochs},"
                for epoch, acc in ((1, 60.0), (2, last), (3, last))
            ]
            (directory / "metrics.csv").write_text("\n".join([COLUMNS, *rows, ""]))
        text = section(write(), "gpu/lengths")
        # The table gives times in seconds.
        assert re.search(r"^.*\b1 min 00 s\b.*\b30\b.*$", text, re.MULTILINE)
        assert re.search(r"^ +20 +2 +\S+ ± \S+ +1 +40\.0$", text, re.MULTILINE)

    def test_a_diverged_seed_has_not_reached_the_target(self, tmp_path, write) -> None:
        top = tmp_path / "top" / "gpu" / "lengths"
        write_run(top / "0", {"seed": 0}, overrides=[])
        rows = [f"{epoch},,1,50,1,{TARGET},,20," for epoch in (1, 2)]
        (top / "0" / "metrics.csv").write_text("\n".join([COLUMNS, *rows, ""]))
        # The first epoch took 20 s. The sentence gives the unit, and the table doesn't.
        assert re.search(r"\b20\.0 s\b", section(write(), "gpu/lengths"))
        diverged = {"state": "diverged", "best": None, "final": None}
        write_run(top / "1", {"seed": 1}, overrides=[], seed=1, **diverged)
        assert not re.search(r"\b20\.0 s\b", section(write(), "gpu/lengths"))

    def test_the_text_that_people_have_added_stays(self, tmp_path, write) -> None:
        write_recommended(tmp_path / "top" / "cpu" / "recommended")
        path = tmp_path / "answers.md"
        written, heading, _ = write().partition(HANDWRITTEN)
        assert heading
        path.write_text(f"{written}{HANDWRITTEN}\n\nCutMix for 300 epochs.\n")
        assert write() == path.read_text()
        assert path.read_text().endswith(f"{HANDWRITTEN}\n\nCutMix for 300 epochs.\n")


class TestScript:
    # A program that replaces Python: it logs its arguments, and one step waits until it is stopped.
    STUB = """#!/usr/bin/env bash
    cd "$(dirname "$0")"
    echo "$*" >>calls
    case "$*" in
      *sweep=identify_logged_runs*)
        [[ ! -e slow ]] || { trap 'kill $!; rm slow; exit 75' TERM; sleep 60 & wait; }
        ;;
      *best_recipe*) echo "Chosen: optim.lr=0.05 augmentation=[cutout,cutmix]" ;;
    esac
    """

    def run_script(self, folder: Path, *arguments: str, **environment: str):
        stub = folder / "stub"
        stub.write_text(self.STUB)
        stub.chmod(0o755)
        return subprocess.run(
            [SCRIPT, *arguments],
            env=os.environ | {"PYTHON": str(stub)} | environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def test_the_script_stops_after_its_time_limit_and_continues(self, tmp_path: Path) -> None:
        (tmp_path / "slow").touch()
        stopped = self.run_script(tmp_path, "gpu", tmp_path / "top", SECONDS_AT_MOST="2")
        assert stopped.returncode == 75, stopped.stderr
        result = self.run_script(tmp_path, "gpu", tmp_path / "top")
        assert result.returncode == 0, result.stderr
        calls = (tmp_path / "calls").read_text().splitlines()
        assert sum("/readings" in line for line in calls) == 1
        assert sum("/identify" in line for line in calls) == 2
        (best,) = (line for line in calls if "/best" in line and "best_recipe" not in line)
        assert "optim.lr=0.05 augmentation=[cutout,cutmix] data.holdout=5000" in best
        self.run_script(tmp_path, "gpu", tmp_path / "top")
        assert (tmp_path / "calls").read_text().splitlines() == calls

    def test_a_search_whose_choice_is_missing_is_run_again(self, tmp_path: Path) -> None:
        assert self.run_script(tmp_path, "gpu", tmp_path / "top").returncode == 0
        first = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "top" / "gpu" / "search.md").unlink()
        assert self.run_script(tmp_path, "gpu", tmp_path / "top").returncode == 0
        (again,) = (tmp_path / "calls").read_text().splitlines()[len(first) :]
        assert "benchmarks.best_recipe" in again

    def test_a_wrong_recipe_is_refused_before_anything_is_trained(self, tmp_path: Path) -> None:
        top = tmp_path / "top"
        refused = self.run_script(
            tmp_path, "gpu", top, RECIPE="experiment=cutmx optim.lr=0.05", PYTHON=sys.executable
        )
        assert (refused.returncode, refused.stdout) == (2, "")
        # The nearest choice is named twice: as the suggestion, and in the list of all.
        (sentence,) = re.findall(r"^error: .*$", refused.stderr, re.MULTILINE)
        assert re.search(r"\bexperiment=cutmx\b", sentence)
        assert len(re.findall(r"\bcutmix\b", sentence)) == 2
        assert [path.name for path in (top / "gpu").iterdir()] == ["machine.txt"]

    def test_a_given_recipe_is_validated_by_a_dry_run_and_replaces_the_search(
        self, tmp_path: Path
    ) -> None:
        result = self.run_script(tmp_path, "gpu", tmp_path / "top", RECIPE="optim.lr=0.05")
        assert result.returncode == 0, result.stderr
        first, *others = (tmp_path / "calls").read_text().splitlines()
        assert first == "-m resnet_sweep --multirun dry_run=true optim.lr=0.05"
        assert not any("best_recipe" in line for line in others)

    def test_only_runs_that_ended_are_evaluated_on_the_test_set(self, tmp_path: Path) -> None:
        best = tmp_path / "top" / "gpu" / "best"
        for number, state in enumerate(["finished", "interrupted", "stopped_early", "diverged"]):
            write_run(best / f"{number}", state=state)
        assert self.run_script(tmp_path, "gpu", tmp_path / "top").returncode == 0
        calls = (tmp_path / "calls").read_text().splitlines()
        assert [line for line in calls if "evaluate" in line] == [
            f"-m resnet_sweep evaluate {best / number}" for number in "02"
        ]

    def test_extra_overrides_come_last_in_every_command(self, tmp_path: Path) -> None:
        overrides = "trainer.epochs=2 model=resnet8v2"
        for part in ("gpu", "cpu"):
            assert self.run_script(tmp_path, part, tmp_path, OVERRIDES=overrides).returncode == 0
        calls = (tmp_path / "calls").read_text().splitlines()
        assert len(calls) == 7 + 3
        assert all(line.endswith(overrides) for line in calls)

    def test_an_unknown_part_is_refused(self, tmp_path: Path) -> None:
        refused = self.run_script(tmp_path, "tpu")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "benchmarks/answers.sh gpu" in refused.stderr
        assert "benchmarks/answers.sh cpu" in refused.stderr
