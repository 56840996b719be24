"""The subcommand judge: its verdicts and exit statuses, what it reuses and what it refuses."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from made_up_results import SMALL, MakeUp
from processes import assert_refused
from small_sweep import TINY, commands, numbers, records

from resnet_sweep.__main__ import main
from resnet_sweep.runs.metrics import read_metrics

BASELINE = " ".join([*SMALL, "optim.lr=0.1"])
QUESTION = ("judge", "optim.lr=0.2", "--baseline", BASELINE)
QUICK = (*QUESTION, "--max-replicates", "3")


def by(difference: float, noise: float = 0.01) -> Callable[[float, int], float]:
    """Return results in which the change has an effect, in points."""
    return lambda lr, seed: 50 + seed + (difference + noise * (-1) ** seed) * (lr == 0.2)


@pytest.mark.parametrize(
    ("result", "options", "status", "verdict"),
    [
        (by(5), [], 0, "better"),
        (by(-5), [], 1, "worse"),
        (by(0), ["--margin", "1"], 1, "within margin"),
        (by(0, 2), [], 3, "undecided"),
        (by(5), ["--questions", "1000000"], 3, "undecided"),
        (lambda lr, seed: "diverged" if lr == 0.2 and seed else 50 + seed, [], 1, "unstable"),
        (lambda lr, seed: "failed" if lr == 0.2 else 50 + seed, [], 4, None),
        (lambda lr, seed: "diverged" if lr == 0.1 else 50 + seed, [], 4, None),
    ],
)
def test_the_exit_status_and_the_json_have_the_verdict(
    call: Command,
    make_up: MakeUp,
    tmp_path: Path,
    result: Callable[[float, int], float | str],
    options: list[str],
    status: int,
    verdict: str | None,
) -> None:
    make_up(result)
    answered = call(main, *QUICK, "--json", *options)
    assert answered.returncode == status, answered.stderr
    answer = json.loads(answered.stdout)
    assert (answer["exit_status"], answer["verdict"]) == (status, verdict)
    assert (tmp_path / answer["directory"] / "sweep.json").is_file()
    assert answer["trained_runs"] + len(answer["failed"]) == 6
    if verdict in ("better", "worse"):
        assert answer["seeds"] == 3
        low, high = answer["interval"]
        assert low < answer["difference"] < high


def test_the_same_question_is_answered_from_its_runs(call: Command, make_up: MakeUp) -> None:
    make_up(by(5))
    call(main, *QUICK)
    launcher = make_up(by(5))
    answer = json.loads(call(main, *QUICK, "--json").stdout)
    assert launcher.launched == []
    assert (answer["trained_runs"], answer["reused_runs"]) == (0, 6)
    assert answer["reused_seconds"] == 12


def test_fewer_seeds_are_answered_from_the_same_runs(call: Command, make_up: MakeUp) -> None:
    make_up(by(0, 2))
    assert call(main, *QUESTION, "--max-replicates", "4").returncode == 3
    launcher = make_up(by(0, 2))
    answer = json.loads(call(main, *QUICK, "--json").stdout)
    assert launcher.launched == []
    assert (answer["verdict"], answer["seeds"]) == ("undecided", 3)


def test_another_question_reuses_the_runs_of_the_baseline(call: Command, make_up: MakeUp) -> None:
    make_up(by(5))
    first = json.loads(call(main, *QUICK, "--json").stdout)
    launcher = make_up(by(5))
    question = ("judge", "optim.lr=0.3", *QUICK[2:])
    second = json.loads(call(main, *question, "--json").stdout)
    assert [lr for lr, _ in launcher.launched[0]] == [0.3] * 3
    assert first["directory"] != second["directory"]


def test_a_stopped_question_is_resumed_by_the_printed_command(
    call: Command, make_up: MakeUp, tmp_path: Path
) -> None:
    def stopping(lr: float, seed: int) -> float:
        if (lr, seed) == (0.2, 1):
            raise KeyboardInterrupt
        return by(5)(lr, seed)

    first = make_up(stopping)
    stopped = call(main, *QUICK)
    assert stopped.returncode == 130
    (command,) = commands(stopped.stdout)
    second = make_up(by(5))
    assert call(main, *shlex.split(command)[3:]).returncode == 0
    trained = [job for batch in (*first.launched, *second.launched) for job in batch]
    assert sorted(trained) == [(lr, seed) for lr in (0.1, 0.2) for seed in (0, 1, 2)]
    assert len(list((tmp_path / "multirun" / "judge").iterdir())) == 1


def test_the_dry_run_has_the_largest_cost(call: Command, tmp_path: Path) -> None:
    result = call(main, *QUESTION, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert numbers(result.stdout.splitlines()[-1]) == [16, 8]
    assert not list(tmp_path.iterdir())


def test_real_runs_are_judged(command: Command, tmp_path: Path) -> None:
    baseline = " ".join([*TINY, "trainer.max_steps=2"])
    arguments = ("optim.lr=1e-9", "--baseline", baseline, "--max-replicates", "3")
    result = command("judge", *arguments, "--json")
    answer = json.loads(result.stdout)
    assert result.returncode == answer["exit_status"] != 4, result.stderr
    found = records(tmp_path / answer["directory"])
    assert [record["state"] for record in found.values()] == ["finished"] * 6
    assert sum(record["seconds"] for record in found.values()) == answer["trained_seconds"]


def test_epochs_that_runs_share_count_once_in_the_cost(call: Command, tmp_path: Path) -> None:
    baseline = " ".join([*TINY, "data.limit_train=64", "schedule=constant"])
    arguments = ("trainer.epochs=3", "--baseline", baseline, "--max-replicates", "3", "--json")
    answers = [json.loads(call(main, "judge", *arguments).stdout) for _ in range(2)]
    folder = tmp_path / answers[0]["directory"]
    seconds = 0.0
    for name, record in records(folder).items():
        shared = record["shared_epochs"]["epochs"] if record["shared_epochs"] else 0
        seconds += record["seconds"] - sum(
            row["seconds"] for row in read_metrics(folder / name)[:shared]
        )
    assert any(record["shared_epochs"] for record in records(folder).values())
    assert answers[0]["trained_seconds"] == pytest.approx(seconds)
    assert answers[1]["reused_seconds"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["seed=1"], ["seed=1", "seed"]),
        (["seed=1", "optim.lr=0.2"], ["seed=1"]),
        (["optim.lr=0.1"], ["optim.lr=0.1", "nothing"]),
        (["trainer.threads=2"], ["trainer.threads=2", "nothing"]),
        (["hydra.job.chdir=true"], ["hydra.job.chdir=true"]),
        (["optim.lr=0.1,0.2"], ["optim.lr=0.2"]),
        (["metric=top5"], ["metric=top5"]),
        (["sweep=recommended"], ["sweep=recommended"]),
        (["optim.lr=-1"], ["optim.lr", "-1"]),
        (["optim.rate=1"], ["optim.rate"]),
        (["optim.lr"], ["optim.lr", "="]),
        ([], ["OVERRIDE"]),
        (["optim.lr=0.2", "--max-replicates", "2"], ["--max-replicates", "2", "3"]),
        (["optim.lr=0.2", "--margin", "-1"], ["--margin", "-1"]),
        (["optim.lr=0.2", "--questions", "0"], ["--questions", "0"]),
        (["optim.lr=0.2", "--json", "--dry-run"], ["--json", "--dry-run"]),
    ],
)
def test_a_question_without_an_answer_is_refused(
    call: Command, tmp_path: Path, arguments: list[str], facts: list[str]
) -> None:
    assert_refused(call(main, "judge", *arguments, "--baseline", BASELINE), *facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        "replicates=3",
        "margin=1",
        "zip=[]",
        "sweep=recommended",
        "hydra/sweeper=optuna",
        "--cfg",
        "objective=[val_acc,seconds]",
    ],
)
def test_a_baseline_that_sets_what_judge_sets_is_refused(
    call: Command, tmp_path: Path, wrong: str
) -> None:
    result = call(main, "judge", "optim.lr=0.2", "--baseline", f"{BASELINE} {wrong}")
    assert_refused(result, wrong)
    assert not list(tmp_path.iterdir())
