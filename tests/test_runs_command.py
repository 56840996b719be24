"""The subcommand `runs`, which prints a table of runs."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from processes import assert_refused, clean_environment
from rich.cells import cell_len
from run_directories import write_run

from resnet_sweep.cli import main

Runs = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def runs(command: Command, call: Command) -> Runs:
    """Return a function that runs the subcommand in `tmp_path`.

    With environment variables it starts a process, and otherwise it calls `main` in this one.
    """

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        if not environment:
            return call(main, "runs", *arguments)
        return command("runs", *arguments, **environment)

    return run


def table(result: subprocess.CompletedProcess) -> list[list[str]]:
    """Return the cells of a table, which are separated by two or more spaces."""
    assert result.returncode == 0, result.stderr
    return [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Write runs with two learning rates and three seeds each, and an interrupted run."""
    for number, (lr, seed) in enumerate((lr, seed) for lr in (0.1, 0.05) for seed in range(3)):
        write_run(
            tmp_path / "multirun/day" / str(number),
            {"optim.lr": lr, "seed": seed},
            accuracy=60.0 + 10 * lr + seed**2,
            seconds=100.0 + number,
            started=f"2026-01-02T03:0{number}:00+00:00",
        )
    write_run(
        tmp_path / "outputs/day/time",
        {"optim.lr": 0.2},
        state="interrupted",
        best=None,
        final=None,
        gap=None,
        started="2026-01-03T00:00:00+00:00",
    )
    return tmp_path


def test_replicates_are_one_line_with_mean_and_deviation(sweep: Path, runs: Runs) -> None:
    accuracies = np.array([60.5, 61.5, 64.5])
    text = f"{accuracies.mean():.2f} ± {accuracies.std(ddof=1):.2f}%"
    header, *lines = table(runs())
    assert header == ["state", "started", "n", "best", "final", "time", "optim.lr", "seed", "run"]
    assert lines == [
        [
            "interrupted",
            "2026-01-03 00:00",
            "1",
            "unknown",
            "unknown",
            "12.5 s",
            "0.2",
            "0",
            "outputs/day/time",
        ],
        [
            "finished",
            "2026-01-02 03:05",
            "3",
            text,
            text,
            "1 min 44 s",
            "0.05",
            "[0, 1, 2]",
            "multirun/day/5 and 2 more",
        ],
        [
            "finished",
            "2026-01-02 03:02",
            "3",
            "62.67 ± 2.08%",
            "62.67 ± 2.08%",
            "1 min 41 s",
            "0.1",
            "[0, 1, 2]",
            "multirun/day/2 and 2 more",
        ],
    ]


def test_single_runs_are_shown_newest_first(sweep: Path, runs: Runs) -> None:
    header, *lines = table(runs("--no-group"))
    assert header == ["state", "started", "best", "final", "time", "optim.lr", "seed", "run"]
    assert [line[-1] for line in lines] == [
        "outputs/day/time",
        *(f"multirun/day/{number}" for number in reversed(range(6))),
    ]
    assert lines[1] == [
        "finished",
        "2026-01-02 03:05",
        "64.50%",
        "64.50%",
        "1 min 45 s",
        "0.05",
        "2",
        "multirun/day/5",
    ]
    assert "optim.lr" not in table(runs("multirun/day/3", "multirun/day/4"))[0]


def test_json_has_the_mean_and_deviation_that_numpy_computes(sweep: Path, runs: Runs) -> None:
    content = json.loads(runs("multirun", "--group-by", "seed", "--json").stdout)
    assert content["damaged"] == []
    for line in content["runs"]:
        (seed,) = line["differences"].values()
        values = [60.5 + seed**2, 61.0 + seed**2]
        assert line["best"]["mean"] == pytest.approx(np.mean(values))
        assert line["best"]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert line["best"]["n"] == line["n"] == 2
        assert line["names"] == [f"multirun/day/{3 + seed}", f"multirun/day/{seed}"]
    assert sorted(line["differences"]["seed"] for line in content["runs"]) == [0, 1, 2]


def test_csv_has_all_digits(sweep: Path, runs: Runs) -> None:
    lines = list(csv.DictReader(io.StringIO(runs("multirun", "--csv").stdout)))
    assert [line["run"] for line in lines] == ["multirun/day/5", "multirun/day/2"]
    assert float(lines[0]["best"]) == pytest.approx(np.mean([60.5, 61.5, 64.5]))
    assert float(lines[0]["best_sd"]) == pytest.approx(np.std([60.5, 61.5, 64.5], ddof=1))
    assert float(lines[0]["seconds"]) == 104.0
    assert lines[0]["optim.lr"] == "0.05"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sort", "-best"], [2, 5, 1, 4, 0, 3]),
        (["--sort", "best.val_acc", "--top", "2"], [3, 0]),
        (["--sort=-optim.lr"], [2, 1, 0, 5, 4, 3]),
        (["--sort", "started"], [0, 1, 2, 3, 4, 5]),
        (["--sort", "run", "--top", "1"], [0]),
        (["--filter", "optim.lr < 0.1 and seed != 1"], [5, 3]),
        (["--filter", "state == 'finished' and best > 64", "--sort", "seconds"], [2, 5]),
        (["--filter", "optim in ['adamw']"], []),
        (["--filter", "'day/4' in run"], [4]),
    ],
)
def test_runs_are_filtered_and_sorted(
    sweep: Path, runs: Runs, arguments: list[str], expected: list[int]
) -> None:
    result = runs("multirun", "--no-group", "--json", *arguments)
    names = [line["names"][0] for line in json.loads(result.stdout)["runs"]]
    assert names == [f"multirun/day/{number}" for number in expected]


def test_runs_without_a_value_are_sorted_last(sweep: Path, runs: Runs) -> None:
    for sort in ("best", "-best"):
        lines = table(runs("--no-group", f"--sort={sort}"))
        assert lines[-1][-1] == "outputs/day/time"


def test_damaged_runs_are_listed_below_the_table_with_the_reason(sweep: Path, runs: Runs) -> None:
    name = "bad \x1b[31mred\x07"
    (sweep / "outputs" / name).mkdir()
    (sweep / "outputs" / name / "run.json").write_text('{"signature": "\\u001b[2J", "best": []')
    write_run(sweep / "outputs/deep", best=["\x1b[2J"])
    result = runs("outputs", "--no-group")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    # The header and the interrupted run come first, then a line for each damaged run.
    assert "outputs/day/time" in result.stdout.splitlines()[1]
    *_, unreadable, deep = result.stdout.splitlines()
    assert unreadable.strip().startswith("outputs/bad \\x1b[31mred\\x07: ")
    assert "run.json" in unreadable and "JSON" in unreadable.replace("run.json", "")
    assert deep.strip().startswith("outputs/deep: ")
    assert "run.json" in deep and re.search(r"\bbest\b", deep)
    damaged = json.loads(runs("outputs", "--json").stdout)["damaged"]
    assert [run["name"] for run in damaged] == [f"outputs/{name}", "outputs/deep"]


def test_control_characters_in_names_and_values_are_escaped(tmp_path: Path, runs: Runs) -> None:
    write_run(tmp_path / "outputs/[bold]:smile: \u202e", {"optim.lr": "\x1b[2J", "x\x07": 1})
    write_run(tmp_path / "outputs/b", {"optim.lr": "${oc.env:HOME}"}, reason="\x9b31m")
    for arguments in ([], ["--csv"], ["--json"], ["--group-by", "optim.lr,reason"]):
        result = runs(*arguments)
        assert result.returncode == 0, result.stderr
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert "${oc.env:HOME}" in result.stdout
    assert "outputs/[bold]:smile: \\u202e" in runs("--no-group").stdout


def test_the_table_fits_a_narrow_terminal(sweep: Path, runs: Runs) -> None:
    result = runs("--no-group", FORCE_COLOR="1", COLUMNS="80")
    assert "\x1b[1m" in result.stdout
    header, *lines = re.sub(r"\x1b\[[\d;]*m", "", result.stdout).splitlines()
    assert max(map(cell_len, [header, *lines])) <= 80
    # The widest columns are wrapped, and nothing is cut off.
    start = header.index("run")
    names = "".join(line[start:].strip() for line in lines)
    assert all(f"multirun/day/{number}" in names for number in range(6))
    assert "\x1b" not in runs("--no-group").stdout


REFUSALS = [
    (["nowhere"], [r"\bnowhere\b", r"\blogged_run_1\b"]),
    (["--filter", "optim.lrr < 1"], [r"\boptim\.lrr\b", r"\boptim\.lr\b"]),
    (["--filter", "bset > 1"], [r"\bbset\b", r"\bbest\b"]),
    (["--filter", "best > open('x')"], [r"open\('x'\)"]),
    (["--sort", "-optm.lr"], [r"\boptm\.lr\b", r"\boptim\.lr\b"]),
    (["--group-by", "model,sede"], [r"\bsede\b", r"\bseed\b"]),
    (["--top", "0"], ["--top", r"\b0\b", r"\b1\b"]),
    (["--nearest-to", "nowhere"], [r"--nearest-to=nowhere\b", r"\blogged_run_1\b"]),
    (["--nearest-to", "logged_run_1", "--csv"], ["--nearest-to", "--csv"]),
    (["--baseline", "best >"], [r"\bbest >"]),
    (["--baseline", "best > 1", "--top", "2"], ["--baseline", "--top"]),
]


@pytest.mark.parametrize(
    ("arguments", "facts"), REFUSALS, ids=[arguments[-1] for arguments, _ in REFUSALS]
)
def test_invalid_arguments_are_refused(
    sweep: Path, runs: Runs, arguments: list[str], facts: list[str]
) -> None:
    result = runs(*arguments)
    assert result.stdout == ""
    assert_refused(result)
    for fact in facts:
        assert re.search(fact, result.stderr), result.stderr


def test_variants_are_compared_with_a_baseline(tmp_path: Path, runs: Runs) -> None:
    for seed, gain in enumerate((0.9, 1.0, 1.1)):
        for lr in (0.1, 0.2):
            write_run(
                tmp_path / f"multirun/{lr}-{seed}",
                {"optim.lr": lr, "seed": seed},
                70 + seed + gain * (lr > 0.1),
                overrides=[f"optim.lr={lr}", f"seed={seed}"],
            )
    result = runs("--baseline", "optim.lr == 0.1", "--filter", "seed >= 0")
    assert result.returncode == 0, result.stderr
    header, best, other, *notes = result.stdout.splitlines()
    assert header.split()[0] == "optim.lr"
    assert re.search(r"\+1\.00 \[\+0\.75, \+1\.25\] +better$", best)
    assert other.split()[-1] == "baseline"
    assert notes[-1].endswith("python -m resnet_sweep optim.lr=0.2 seed=2")
    # All runs have the same loss.
    result = runs("--baseline", "optim.lr == 0.1", "--objective", "val_loss")
    assert result.returncode == 0, result.stderr
    assert "+0.0000 [+0.0000, +0.0000]" in result.stdout
    for option in ("--sort=val_loss", "--objective=val_los", "--objective=distance_to_reference"):
        result = runs("--baseline", "optim.lr == 0.1", option)
        assert_refused(result)
        assert "objective" in result.stderr
    assert_refused(runs("--objective=val_loss"), "--objective=val_loss", "--baseline")


def test_nearest_to_ranks_runs_by_their_distance(tmp_path: Path, runs: Runs) -> None:
    for lr, accuracy in ((0.1, 60.0), (0.2, 70.0), (0.4, 80.0)):
        write_run(tmp_path / f"multirun/{lr}", {"optim.lr": lr}, accuracy)
    result = runs("--nearest-to", "multirun/0.2/metrics.csv", "--nearest-to", "logged_run_2")
    assert result.returncode == 0, result.stderr
    header, first, *_ = result.stdout.splitlines()
    assert header.split()[:2] == ["multirun/0.2/metrics.csv", "logged_run_2"]
    assert (first.split()[0], first.split()[-1]) == ("0.00", "multirun/0.2")


def test_a_folder_without_runs_is_reported(tmp_path: Path, runs: Runs) -> None:
    assert_refused(runs(), "outputs", "multirun")
    (tmp_path / "outputs").mkdir()
    # A table without rows has no header either.
    result = runs()
    assert (result.returncode, result.stderr, len(result.stdout.splitlines())) == (0, "", 1)
    message = result.stdout
    result = runs("--baseline", "optim.lr == 0.1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(message)


def test_the_logged_runs_can_be_listed(runs: Runs) -> None:
    lines = table(runs("logged_run_1", "logged_run_2", "--no-group", "--sort", "-best"))
    assert [line[2] for line in lines[1:]] == ["74.86%", "69.85%"]


@pytest.mark.parametrize(
    "forms", [[""], pytest.param(["--json", "--csv"], marks=pytest.mark.slow)], ids=" ".join
)
def test_no_error_is_printed_when_the_reader_of_a_pipe_exits(sweep: Path, forms: list[str]) -> None:
    for form in forms:
        result = subprocess.run(
            f"{sys.executable} -m resnet_sweep runs --no-group {form} | true",
            shell=True,
            cwd=sweep,
            env=clean_environment(),
            capture_output=True,
            text=True,
        )
        assert result.stderr == ""


@pytest.mark.parametrize(
    "count", [400, pytest.param(10_000, marks=pytest.mark.slow)], ids="{} runs".format
)
def test_many_runs_are_listed_without_importing_torch_or_hydra(
    tmp_path: Path, runs: Runs, count: int
) -> None:
    template = json.loads((write_run(tmp_path / "first") / "run.json").read_text())
    for number in range(count):
        directory = tmp_path / "multirun" / str(number // 100) / str(number % 100)
        directory.mkdir(parents=True)
        template["config"]["seed"] = number % 4
        template["config"]["optim"]["lr"] = (number // 4 + 1) / 10_000
        template["best"]["val_acc"] = 50 * number / count
        (directory / "run.json").write_text(json.dumps(template))
    result = runs("--sort", "-best", "--top", "3", PYTHONPROFILEIMPORTTIME="1")
    lines = [line[-3:] for line in table(result)[1:]]
    last = count // 4
    assert [line[:2] for line in lines] == [
        [f"{lr / 10_000}", "[0, 1, 2, 3]"] for lr in (last, last - 1, last - 2)
    ]
    for (*_, name), lr in zip(lines, (last, last - 1, last - 2), strict=True):
        assert name.startswith(f"multirun/{count // 100 - 1}/{(4 * lr - 4) % 100} ")
        assert "3" in name.split()[1:]
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "resnet_sweep.compare.runs_table" in imported
    assert not imported & {"torch", "numpy", "hydra", "omegaconf", "yaml", "matplotlib"}


def test_csv_escapes_text_that_a_spreadsheet_would_compute(tmp_path: Path, runs: Runs) -> None:
    write_run(tmp_path / "outputs" / "=a", {"optim.lr": "=1+1"})
    write_run(tmp_path / "outputs" / "b", {"optim.lr": -1})
    write_run(tmp_path / "outputs" / "c", {"optim.lr": '=HYPERLINK("http://x")'})
    text = runs("--csv", "--no-group").stdout
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert "'=1+1" in cells
    assert "-1" in cells
    assert '\'=HYPERLINK("http://x")' in cells
    assert not any(cell.startswith("=") for cell in cells)


def test_a_constant_filter_and_an_empty_sort_key_are_refused(tmp_path: Path, runs: Runs) -> None:
    write_run(tmp_path / "outputs" / "a")
    assert_refused(runs("--filter", "1"), "1")
    assert_refused(runs("--sort="))


def test_1_and_1_0_are_in_the_same_group(tmp_path: Path, runs: Runs) -> None:
    write_run(tmp_path / "outputs" / "a", {"optim.lr": 1, "seed": 0})
    write_run(tmp_path / "outputs" / "b", {"optim.lr": 1.0, "seed": 1})
    assert len(table(runs("--group-by", "optim.lr"))) == 2


@pytest.mark.parametrize("name", ["time", "run", "state", "started", "best", "final"])
def test_runs_can_be_sorted_by_the_headings_of_the_table(
    name: str, tmp_path: Path, runs: Runs
) -> None:
    write_run(tmp_path / "outputs" / "a")
    assert runs("--sort", name).returncode == 0


LONG = 0.10815682765921358


def test_tables_have_four_digits_and_csv_and_json_have_all(tmp_path: Path, runs: Runs) -> None:
    for number, dropout in enumerate((LONG, 0.2, 123456.78901234)):
        settings = {"model.dropout": dropout, "model.rates": [dropout, 1]}
        write_run(tmp_path / f"outputs/{number}", settings, overrides=[f"model.dropout={dropout}"])
    for arguments in ([], ["--no-group"], ["--nearest-to", "logged_run_1"]):
        text = runs(*arguments).stdout
        assert "0.1082" in text and "[0.1082, 1]" in text and str(LONG) not in text
        # Digits before the decimal point aren't rounded.
        assert re.search(r"\b123457\b", text)
    ranked = runs("--baseline", "model.dropout == 0.2", "--filter", "model.dropout < 0.2").stdout
    assert f"model.dropout={LONG}" in ranked
    assert str(LONG) in runs("--csv").stdout
    assert str(LONG) in runs("--json").stdout


def test_different_values_are_shown_with_enough_digits_to_differ(
    tmp_path: Path, runs: Runs
) -> None:
    for number, lr in enumerate((0.1, 0.10000001, 0.3)):
        write_run(tmp_path / f"outputs/{number}", {"optim.lr": lr})
    header, *lines = table(runs())
    assert {line[header.index("optim.lr")] for line in lines} == {"0.1", "0.10000001", "0.3"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("trainer.threads == null", ["a"]),
        ("not trainer.threads == None", ["b"]),
        ("optim.nesterov == true", ["b"]),
        ("optim.nesterov in [false, 3]", ["a"]),
        ("optim.nesterov == False", ["a"]),
    ],
)
def test_a_filter_accepts_the_literals_of_yaml_and_of_python(
    tmp_path: Path, runs: Runs, condition: str, expected: list[str]
) -> None:
    write_run(tmp_path / "outputs/a", {"optim.nesterov": False})
    write_run(tmp_path / "outputs/b", {"optim.nesterov": True, "trainer.threads": 2})
    result = runs("--no-group", "--json", "--filter", condition)
    assert result.returncode == 0, result.stderr
    assert [run["names"] for run in json.loads(result.stdout)["runs"]] == [
        [f"outputs/{name}"] for name in expected
    ]


@pytest.mark.parametrize("option", ["--filter", "--baseline"])
@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        ("state == finished", [r"\bfinished\b", r'"finished"']),
        ("experimnt == 'x'", [r"\bexperimnt\b", r"\bexperiment\b"]),
    ],
)
def test_a_name_in_a_filter_that_no_run_has_is_refused(
    tmp_path: Path, runs: Runs, option: str, condition: str, facts: list[str]
) -> None:
    write_run(tmp_path / "outputs/a", choices={"optim": "sgd", "experiment": "y"})
    result = runs(option, condition)
    assert_refused(result)
    for fact in facts:
        assert re.search(fact, result.stderr), result.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_terminal_without_unicode_gets_ascii(sweep: Path, runs: Runs) -> None:
    write_run(sweep / "outputs/day/naïve", {"optim.lr": 0.3})
    result = runs(**ASCII)
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert " +- 2.08%" in result.stdout
    # Characters without a replacement are escaped.
    assert "outputs/day/na\\" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "runs --help",
        "diff logged_run_1 logged_run_2",
        "report . -o -",
        pytest.param("--help", marks=pytest.mark.slow),
        pytest.param("--cfg job", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_no_command_prints_an_error_when_the_reader_of_a_pipe_exits(
    sweep: Path, arguments: str, unbuffered: str
) -> None:
    result = subprocess.run(
        f"{sys.executable} -m resnet_sweep {arguments} | true",
        shell=True,
        cwd=sweep,
        env=clean_environment() | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    # `report` prints one error, since it can't write to the standard output.
    assert len(result.stderr.splitlines()) == ("report" in arguments)
    assert "pipe" not in result.stderr.lower()
