"""The subcommand `diff`, which compares two runs or more."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from conftest import Command
from matplotlib.image import imread
from processes import assert_refused
from rich.cells import cell_len
from run_directories import write_run

from resnet_sweep.cli import main
from resnet_sweep.compare import diff_view
from resnet_sweep.compare.collection import read_run

Diff = Callable[..., subprocess.CompletedProcess]
ADAMW = {
    "optim._target_": "torch.optim.AdamW",
    "optim.lr": 0.001,
    "optim.momentum": ...,
    "optim.betas": [0.9, 0.999],
}
CHOICES = {"model": "resnet8v2", "data": "digits", "optim": "adamw"}


@pytest.fixture
def diff(command: Command, call: Command) -> Diff:
    """Return a function that runs `diff`, in a new process if there are environment variables."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        if not environment:
            return call(main, "diff", *arguments)
        return command("diff", *arguments, **environment)

    return run


def parts_of(result: subprocess.CompletedProcess) -> dict[str, dict[str, list[str]]]:
    """Return the tables of the output: by heading, the rows by name, as lists of cells."""
    parts: dict[str, dict[str, list[str]]] = {}
    for line in result.stdout.splitlines():
        if re.match(r"[A-Z][a-z]+ ", line):
            part = parts.setdefault(line.split()[0], {})
        elif line.startswith("  "):
            name, *cells = re.split(r" {2,}", line.strip())
            part[name] = cells
    return parts


def test_the_output_has_choices_then_settings_then_the_outcome(tmp_path: Path, diff: Diff) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", ADAMW, accuracy=65.5, choices=CHOICES, parameters=80000, seconds=72.5)
    result = diff("a", "b")
    assert (result.returncode, result.stderr) == (1, "")
    parts = parts_of(result)
    assert list(parts) == ["Choices", "Settings", "Outcome"]
    assert parts["Choices"] == {"optim": ["sgd", "adamw"]}
    assert parts["Settings"] == {
        "optim._target_": ["torch.optim.SGD", "torch.optim.AdamW"],
        "optim.betas": ["not set", "[0.9, 0.999]"],
        "optim.lr": ["0.1", "0.001"],
        "optim.momentum": ["0.9", "not set"],
    }
    assert parts["Outcome"] == {
        "best accuracy": ["70.00%", "65.50%", "-4.50"],
        "best epoch": ["2", "2", "same"],
        "best validation loss": ["1.5000", "1.5000", "same"],
        "final accuracy": ["70.00%", "65.50%", "-4.50"],
        "final training accuracy": ["80.00%", "80.00%", "same"],
        "final validation loss": ["1.5000", "1.5000", "same"],
        "final training loss": ["1.0000", "1.0000", "same"],
        "gap": ["10.00%", "14.50%", "+4.50"],
        "epochs": ["2", "2", "same"],
        "parameters": ["77,850", "80,000", "+2,150"],
        "time": ["12.5 s", "1 min 12 s", "+1 min 00 s"],
    }


def test_runs_that_differ_only_in_paths_and_machine_are_the_same(
    tmp_path: Path, diff: Diff
) -> None:
    write_run(tmp_path / "a")
    write_run(
        tmp_path / "b",
        # These settings say where and how the run was trained.
        {"data.root": "/x", "trainer.threads": 8, "logger.csv": {"_target_": "x"}}
        # These belong to the sweep of the run, and not to its environment.
        | {"retry_failed": False, "objective": "val_loss", "reuse": False},
        choices={"model": "resnet8v2", "data": "digits", "optim": "sgd", "experiment": "named"},
        seconds=99.0,
        started="2027-01-01T00:00:00+00:00",
        ended=None,
        host="there",
        device="cuda:0",
        threads=8,
        versions={"python": "3.12.0", "torch": "2.7.0"},
        git_commit="abc",
    )
    result = diff("a", "b")
    assert (result.returncode, result.stderr) == (0, "")
    parts = parts_of(result)
    assert "Settings" not in parts
    assert parts["Environment"] == {
        "data.root": ["not set", "/x"],
        "device": ["cpu", "cuda:0"],
        "git_commit": ["not set", "abc"],
        "host": ["here", "there"],
        "logger.csv._target_": ["not set", "x"],
        "threads": ["1", "8"],
        "trainer.threads": ["null", "8"],
        "versions.python": ["3.11.7", "3.12.0"],
    }


@pytest.mark.parametrize(
    ("settings", "changes", "status"),
    [
        ({}, {}, 0),
        ({"optim.lr": 0.2}, {}, 1),
        ({"seed": 1}, {}, 1),
        ({"model.dropout": 0}, {}, 1),
        ({"model.attention": "se"}, {}, 1),
        ({"model.attention": None}, {}, 1),
        ({}, {"precision": "bfloat16"}, 1),
        ({}, {"inputs": {"data": "g"}}, 1),
        ({}, {"state": "interrupted"}, 1),
        ({}, {"best": {"epoch": 1, "val_acc": 70.0, "val_loss": 1.5}}, 1),
        ({}, {"gap": 10.000001}, 1),
        ({}, {"parameters": None}, 1),
        ({}, {"notes": ["a note"], "signature": "s", "overrides": ["seed=0"]}, 0),
        ({"model.dropout": 0.10}, {"seconds": None}, 0),
    ],
)
def test_the_exit_status_says_whether_the_runs_are_the_same(
    tmp_path: Path, diff: Diff, settings: dict, changes: dict, status: int
) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", settings, **changes)
    result = diff("a", "b", "--json")
    assert (result.returncode, result.stderr) == (status, "")
    assert json.loads(result.stdout)["same"] == (status == 0)


def test_json_contains_only_what_differs(tmp_path: Path, diff: Diff) -> None:
    write_run(tmp_path / "a", notes=["rounded"])
    write_run(tmp_path / "b", ADAMW, choices=CHOICES, host="there")
    first, second = json.loads(diff("a", "b", "--json").stdout)["runs"]
    assert (first["choices"], second["choices"]) == ({"optim": "sgd"}, {"optim": "adamw"})
    assert first["settings"] == {
        "optim._target_": "torch.optim.SGD",
        "optim.lr": 0.1,
        "optim.momentum": 0.9,
    }
    assert second["settings"] == {name: value for name, value in ADAMW.items() if value is not ...}
    assert (first["environment"], second["environment"]) == ({"host": "here"}, {"host": "there"})
    assert first["best"] == {"epoch": 2, "val_acc": 70.0, "val_loss": 1.5}
    assert (first["notes"], second["notes"]) == (["rounded"], [])


def test_the_logged_runs_differ_in_their_seed_and_outcome(diff: Diff) -> None:
    result = diff("logged_run_1", "logged_run_2")
    assert result.returncode == 1
    parts = parts_of(result)
    # A sentence below the table is parsed as a row without cells.
    assert {name: cells for name, cells in parts["Settings"].items() if cells} == {
        "seed": ["0", "1"]
    }
    assert parts["Outcome"]["best accuracy"] == ["69.85%", "74.86%", "+5.01"]
    assert parts["Outcome"]["final accuracy"] == ["69.68%", "74.70%", "+5.02"]
    assert parts["Outcome"]["final training accuracy"] == ["89.57%", "99.65%", "+10.08"]
    assert parts["Outcome"]["gap"] == ["19.89%", "24.95%", "+5.06"]
    text = "".join(result.stdout.split())
    notes = {note for number in (1, 2) for note in read_run(f"logged_run_{number}").record.notes}
    assert any("~2.7M" in note for note in notes)
    # A note is printed once, even if both runs have it.
    for note in notes:
        assert text.count("".join(note.split())) == 1


def test_three_runs_have_three_columns_and_rows_for_what_varies(tmp_path: Path, diff: Diff) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", {"optim.lr": 0.2})
    write_run(tmp_path / "c", {"optim.lr": 0.3}, accuracy=71.0, notes=["all well"])
    result = diff("a", "b", "c")
    assert result.returncode == 1
    assert parts_of(result) == {
        "Settings": {"optim.lr": ["0.1", "0.2", "0.3"]},
        "Outcome": {
            "best accuracy": ["70.00%", "70.00%", "71.00%"],
            "final accuracy": ["70.00%", "70.00%", "71.00%"],
            "gap": ["10.00%", "10.00%", "9.00%"],
            "C: all well": [],
        },
    }
    assert result.stdout.endswith("Notes\n  C: all well\n")


def test_values_have_enough_digits_to_distinguish_them(tmp_path: Path, diff: Diff) -> None:
    write_run(tmp_path / "a", {"optim.lr": 0.10815682765921358, "optim.momentum": 0.9})
    write_run(tmp_path / "b", {"optim.lr": 0.2, "optim.momentum": 0.90000001})
    settings = parts_of(diff("a", "b"))["Settings"]
    assert settings["optim.lr"] == ["0.1082", "0.2"]
    assert settings["optim.momentum"] == ["0.9", "0.90000001"]
    assert "0.10815682765921358" in diff("a", "b", "--json").stdout


def test_running_and_diverged_runs_are_compared(tmp_path: Path, diff: Diff) -> None:
    no_results = {"best": None, "final": None, "gap": None}
    write_run(tmp_path / "a", state="running", **no_results)
    write_run(tmp_path / "b", state="diverged", reason="loss is nan", **no_results)
    result = diff("a", "b")
    assert result.returncode == 1
    assert "A  a: running (stale)\nB  b: diverged (loss is nan)\n" in result.stdout
    assert parts_of(result)["Outcome"]["state"] == ["running (stale)", "diverged"]


@pytest.mark.parametrize("width", [60, 80])
def test_the_output_fits_a_narrow_terminal(tmp_path: Path, diff: Diff, width: int) -> None:
    long_values = {
        "model.widths": list(range(40)),
        "augmentation.trivial._target_": "package." * 12 + "X",
    }
    for number in range(8):
        changes = long_values if number else {}
        write_run(
            tmp_path / f"run{number}",
            changes | {"optim.lr": 1 / (number + 3)},
            60 + number,
            notes=["a long note of many words " * 8],
        )
    for runs in (2, 3, 8):
        result = diff(
            *(f"run{number}" for number in range(runs)), COLUMNS=str(width), FORCE_COLOR="1"
        )
        assert "\x1b[1m" in result.stdout
        lines = re.sub(r"\x1b\[[\d;]*m", "", result.stdout).splitlines()
        assert max(map(cell_len, lines)) <= width
        text = "\n".join(lines)
        # Long values are wrapped between words, so every number of the list is printed whole.
        assert {*map(str, range(1, 39))} <= {*re.findall(r"\b(\d+),", text)}
        assert all(f"{60 + number}.00%" in text for number in range(runs))
    assert "\x1b" not in diff("run0", "run1").stdout


def test_control_characters_in_names_and_values_are_escaped(tmp_path: Path, diff: Diff) -> None:
    write_run(tmp_path / "a")
    write_run(
        tmp_path / "[red]:smile:\x1b[2J",
        {"optim.lr": "\x1b[31m", "m\x07": "${oc.env:HOME}"},
        notes=["\x9b2J"],
        reason="\u202e",
        host="\x1b]0;title\x07",
    )
    for arguments in ([], ["--json"]):
        result = diff("a", "[red]:smile:\x1b[2J", *arguments)
        assert result.returncode == 1
        assert all(line.isprintable() for line in result.stdout.splitlines())
        assert "${oc.env:HOME}" in result.stdout
        assert "[red]:smile:\\" in result.stdout


class TestCurves:
    def test_curves_are_drawn_only_with_the_option(self, tmp_path: Path, diff: Diff) -> None:
        write_run(tmp_path / "a$^$")
        write_run(tmp_path / "b", {"seed": 1}, accuracy=65.0)
        without_curves = diff("a$^$", "b", PYTHONPROFILEIMPORTTIME="1")
        assert "matplotlib" not in without_curves.stderr
        result = diff("a$^$", "b", "--curves", "both.png")
        assert (result.returncode, result.stdout, result.stderr) == (1, without_curves.stdout, "")
        first, second = (
            diff(name, name, "--curves", f"{name}.png").returncode for name in ("a$^$", "b")
        )
        assert first == second == 0
        both, first_image, second_image = (
            imread(tmp_path / f"{name}.png") for name in ("both", "a$^$", "b")
        )
        assert both.shape == first_image.shape == second_image.shape
        assert (both != first_image).any()
        assert (both != second_image).any()

    def test_curves_of_runs_without_validation_loss_are_drawn(
        self, tmp_path: Path, diff: Diff
    ) -> None:
        assert diff("logged_run_1", "logged_run_2", "--curves", "c.png").returncode == 1
        assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

    def test_curves_are_the_metrics_of_each_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figures = []
        monkeypatch.setattr(diff_view, "png", lambda figure: figures.append(figure) or b"")
        run = read_run(str(write_run(tmp_path / "a")))
        diff_view.draw_curves([run], tmp_path / "c.png")
        accuracy, loss = figures[0].axes[:2]
        curves = [
            [line.get_xydata().tolist() for line in axes.lines[:2]] for axes in (accuracy, loss)
        ]
        assert curves == [
            [[[1, 50], [2, 80]], [[1, 60], [2, 70]]],
            [[[1, 2], [2, 1]], [[1, 2.5], [2, 1.5]]],
        ]

    def test_curves_of_damaged_metrics_are_refused(self, tmp_path: Path, diff: Diff) -> None:
        write_run(tmp_path / "a")
        (tmp_path / "a/metrics.csv").write_text("epoch\none\n")
        result = diff("a", "logged_run_1", "--curves", "c.png")
        assert result.stdout == ""
        assert_refused(result, "a", "metrics.csv")
        assert not (tmp_path / "c.png").exists()


WRONG_ARGUMENTS = [
    (["a"], [" a "]),
    (["a", "nowhere"], ["nowhere", "logged_run_1", "logged_run_2"]),
    (["a", "."], [" . ", "run.json"]),
    (["a", "damaged"], ["damaged", "run.json", "JSON"]),
    (["a", "a", "--curves", "a/run.json"], ["--curves", "a/run.json", ".png"]),
    (["a", "a", "--curves", "no/c.png"], ["no/c.png", "No such file or directory"]),
]


@pytest.mark.parametrize(
    ("arguments", "facts"), WRONG_ARGUMENTS, ids=[arguments[-1] for arguments, _ in WRONG_ARGUMENTS]
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, diff: Diff, arguments: list[str], facts: list[str]
) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/run.json").touch()
    result = diff(*arguments)
    assert result.stdout == ""
    assert_refused(result, *facts)
    assert json.loads((tmp_path / "a/run.json").read_text())


def test_unknown_values_are_no_difference(tmp_path: Path, diff: Diff) -> None:
    """The logged runs have unknown values."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", inputs={}, precision=None)
    assert diff("a", "b").returncode == 0
    write_run(tmp_path / "b", seconds=None)
    result = diff("a", "b")
    assert result.returncode == 0
    assert parts_of(result)["Outcome"]["time"] == ["12.5 s", "unknown"]


def test_the_order_of_augmentation_is_shown_if_the_operations_are_the_same(
    tmp_path: Path, diff: Diff
) -> None:
    crop, flip = ({"_target_": f"package.{name}"} for name in ("Crop", "Flip"))
    first = {"augmentation": {"crop": crop, "flip": flip}}
    write_run(tmp_path / "a", first)
    write_run(tmp_path / "b", {"augmentation": {"flip": flip, "crop": crop}})
    write_run(tmp_path / "c", {"augmentation": {"crop": crop}})
    result = diff("a", "b")
    assert result.returncode == 1
    assert parts_of(result)["Settings"] == {
        "augmentation.order": ['["crop", "flip"]', '["flip", "crop"]']
    }
    assert "augmentation.order" not in diff("a", "c").stdout


@pytest.mark.parametrize("augmentation", [5, True, "text", [1, 2]])
def test_an_augmentation_that_is_not_a_mapping_is_compared(
    augmentation: object, tmp_path: Path, diff: Diff
) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", {"augmentation": augmentation})
    result = diff("a", "b")
    assert (result.returncode, result.stderr) == (1, "")


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    for arguments in (["a", "a"], ["a", "a", "--json"], ["--help"]):
        with open("/dev/full", "w") as full:
            result = processes.run(tmp_path, "diff", *arguments, stdout=full)
        assert_refused(result, "No space left on device")
