"""The command line: subcommands, and the arguments that go to Hydra."""

import errno
import io
import sys
from pathlib import Path

import pytest
from conftest import Command
from processes import assert_refused, run, run_and_list_imports

from resnet_sweep import output
from resnet_sweep.cli import SUBCOMMANDS, main

LIGHTWEIGHT = [
    ["runs", "logged_run_1"],
    ["diff", "logged_run_1", "logged_run_2"],
    ["report", "logged_run_1", "-o", "report.html"],
    ["report", "logged_run_1", "-o", "log.md"],
]


@pytest.mark.parametrize("word", ["rusn", "optim", "optim.lr", "train", "Runs", "x\x1b[2J"])
def test_an_unknown_subcommand_is_refused_with_the_list_of_subcommands(
    word: str, call: Command
) -> None:
    result = call(main, word, "optim.lr=0.1")
    assert_refused(result, *SUBCOMMANDS)
    assert word.replace("\x1b", "\\x1b") in result.stderr
    assert result.stdout == ""


def test_a_misspelt_subcommand_is_refused_with_the_nearest(call: Command) -> None:
    assert call(main, "evalute").stderr.count("evaluate") == 2


@pytest.mark.parametrize(("status", "expected"), [(75, 75), (1, 1), (0, 2)])
def test_a_full_disk_at_the_end_keeps_the_exit_status_of_a_failure(
    status: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(output, "discard_output", lambda: None)
    with pytest.raises(SystemExit) as exit_info, output.tolerant_output():
        sys.exit(status)
    assert exit_info.value.code == expected


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_a_subcommand_has_its_own_help(subcommand: str, call: Command) -> None:
    result = call(main, subcommand, "--help")
    assert result.returncode == 0
    assert f"python -m resnet_sweep {subcommand}" in result.stdout


@pytest.mark.parametrize("arguments", LIGHTWEIGHT, ids=" ".join)
def test_a_subcommand_that_reads_runs_does_not_import_torch_or_hydra(
    arguments: list[str], tmp_path: Path
) -> None:
    _, imported = run_and_list_imports(tmp_path, *arguments)
    assert "resnet_sweep.compare.collection" in imported
    assert not imported & {"torch", "hydra", "omegaconf", "optuna", "matplotlib"}


def test_the_help_names_every_subcommand(call: Command) -> None:
    result = call(main, "--help")
    assert result.returncode == 0
    for subcommand in SUBCOMMANDS:
        assert f"python -m resnet_sweep {subcommand}" in result.stdout


@pytest.mark.parametrize("word", ["optim.lr=0.1", "~trainer.ema_decay", "--cfg", "+x=1"])
def test_overrides_and_flags_go_to_hydra(
    word: str, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("resnet_sweep.cli.train.main", calls.append)
    assert call(main, word, "seed=1").returncode == 0
    assert calls == [[word, "seed=1"]]


@pytest.mark.parametrize("arguments", [["seed=1"], ["runs", "logged_run_1"]])
def test_an_interrupt_before_a_command_starts_ends_it_silently(
    arguments: list[str], call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_sweep.cli.import_module", interrupt)
    monkeypatch.setattr("resnet_sweep.cli.train.main", interrupt)
    result = call(main, *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_trusted_package_is_found_in_the_current_folder(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console script finds it, too, although its search path starts with its own folder."""
    (tmp_path / "my_networks.py").write_text("class Network:\n    pass\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "my_networks")
    result = call(main, "data=digits", "model._target_=my_networks.Network")
    # The class is found; its constructor doesn't accept the settings of the model.
    assert_refused(result, "model.attention")
    assert "my_networks" not in result.stderr


def test_a_file_in_the_current_folder_replaces_no_installed_package(
    command: Command, tmp_path: Path
) -> None:
    for package in ("hydra", "rich", "omegaconf", "random"):
        (tmp_path / f"{package}.py").write_text("print('executed')\n")
    result = command("--help", cold=True)
    assert result.returncode == 0, result.stderr
    assert "executed" not in result.stdout + result.stderr


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["runs", "logged_run_1"]], ids=" ".join)
def test_output_that_cannot_be_written_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        result = run(tmp_path, *arguments, stdout=full)
    assert_refused(result, "No space left on device")


@pytest.mark.parametrize(
    ("line", "is_first_word"), [("ev", True), ("", True), ("model=resnet8", False)]
)
def test_tab_completion_of_the_first_word_includes_the_subcommands(
    line: str, is_first_word: bool, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", f"resnet-sweep {'' if is_first_word else 'seed=1 '}{line}")
    completions = call(main, "-sc", "query=bash").stdout.split()
    assert set(SUBCOMMANDS).issubset(completions) == is_first_word
    assert ("model=" in completions) == (line == "")
    assert ("model=resnet8v2" in completions) == (not is_first_word)
