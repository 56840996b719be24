"""The command line as a whole: subcommands, and all else for Hydra."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command
from processes import assert_refused, clean_environment

from resnet_sweep import output
from resnet_sweep.cli import SUBCOMMANDS, main

LIGHT = [
    ["runs", "logged_run_1"],
    ["diff", "logged_run_1", "logged_run_2"],
    ["report", "logged_run_1", "-o", "report.html"],
    ["report", "logged_run_1", "-o", "log.md"],
]


@pytest.mark.parametrize("word", ["rusn", "optim", "optim.lr", "train", "Runs", "x\x1b[2J"])
def test_unknown_subcommand_is_refused_with_all_that_there_are(word: str, call: Command) -> None:
    done = call(main, word, "optim.lr=0.1")
    assert_refused(done, *SUBCOMMANDS)
    assert word.replace("\x1b", "\\x1b") in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["runs", "--top", "x"], ["--top", "x"]),
        (["runs", "--nope"], ["--nope"]),
        (["runs", "logged_run_1", "--top", "0"], ["--top", "0", "1"]),
        (["runs", "logged_run_1", "--filter", "state == finished"], ["finished", '"finished"']),
        (["runs", "logged_run_1", "--nearest-to", "nowhere"], ["--nearest-to", "logged_run_1"]),
        (["diff", "logged_run_1", "--sort", "x"], ["--sort"]),
        (["evaluate"], ["RUN"]),
    ],
)
def test_wrong_argument_of_a_subcommand_is_refused(
    call: Command, words: list[str], facts: list[str]
) -> None:
    assert_refused(call(main, *words), *facts)


def test_run_without_weights_is_not_suggested_for_evaluation(call: Command) -> None:
    done = call(main, "evaluate", "nowhere")
    assert_refused(done, "nowhere")
    assert "logged_run" not in done.stderr


def test_misspelt_subcommand_is_answered_with_the_nearest(call: Command) -> None:
    assert call(main, "evalute").stderr.count("evaluate") == 2


@pytest.mark.parametrize(("status", "expected"), [(75, 75), (1, 1), (0, 2)])
def test_output_that_is_lost_at_the_end_keeps_the_status_of_what_went_wrong(
    status: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(output, "discard_output", lambda: None)
    with pytest.raises(SystemExit) as leaving, output.tolerant_output():
        sys.exit(status)
    assert leaving.value.code == expected


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_subcommand_has_its_own_help(subcommand: str, call: Command) -> None:
    done = call(main, subcommand, "--help")
    assert done.returncode == 0
    assert f"python -m resnet_sweep {subcommand}" in done.stdout


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_subcommand_that_reads_runs_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep", *words],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "resnet_sweep.compare.collection" in imported
    assert not imported & {"torch", "hydra", "omegaconf", "optuna", "matplotlib"}


def test_help_of_the_command_names_every_subcommand(call: Command) -> None:
    done = call(main, "--help")
    assert done.returncode == 0
    for subcommand in SUBCOMMANDS:
        assert f"python -m resnet_sweep {subcommand}" in done.stdout


@pytest.mark.parametrize("word", ["optim.lr=0.1", "~trainer.ema_decay", "--cfg", "+x=1"])
def test_overrides_and_flags_are_left_to_hydra(
    word: str, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[list[str]] = []
    monkeypatch.setattr("resnet_sweep.cli.train.main", reached.append)
    assert call(main, word, "seed=1").returncode == 0
    assert reached == [[word, "seed=1"]]


@pytest.mark.parametrize("words", [["seed=1"], ["runs", "logged_run_1"]])
def test_an_interrupt_before_a_command_has_begun_ends_it_silently(
    words: list[str], call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_sweep.cli.import_module", interrupt)
    monkeypatch.setattr("resnet_sweep.cli.train.main", interrupt)
    done = call(main, *words)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_trusted_package_is_found_in_the_current_folder(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by the console script, whose own folder is the first in which modules are looked for."""
    (tmp_path / "my_networks.py").write_text("class Network:\n    pass\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "my_networks")
    done = call(main, "data=digits", "model._target_=my_networks.Network")
    # It is found, and has no parameters.
    assert_refused(done, "model.attention")
    assert "my_networks" not in done.stderr


@pytest.mark.parametrize(("line", "first"), [("ev", True), ("", True), ("model=resnet8", False)])
def test_the_first_word_is_completed_as_a_subcommand_too(
    line: str, first: bool, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", f"resnet-sweep {'' if first else 'seed=1 '}{line}")
    found = call(main, "-sc", "query=bash").stdout.split()
    assert set(SUBCOMMANDS).issubset(found) == first
    assert ("model=" in found) == (line == "")
    assert ("model=resnet8v2" in found) == (not first)
