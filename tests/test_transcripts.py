"""Transcripts in pages show what their commands print."""

import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command

from benchmarks import transcripts
from benchmarks.transcripts import run_page, structure

TUTORIAL = ROOT / "docs" / "tutorial.md"


def page(*lines: str, kind: str = "console") -> str:
    """Return a page with one block."""
    return "\n".join(["# A page", "", f"```{kind}", *lines, "```", "", "Its end.", ""])


@pytest.mark.slow
def test_the_tutorial_shows_what_its_commands_print() -> None:
    _, differences = run_page(TUTORIAL.read_text(encoding="utf-8"))
    assert not differences, "\n\n".join(differences)


def test_the_output_of_each_command_is_written_into_the_page() -> None:
    text, differences = run_page(page("$ echo one", "$ echo two \\", "    three", "$ true"))
    assert text == page("$ echo one", "one", "$ echo two \\", "    three", "two three", "$ true")
    assert len(differences) == 2


def test_the_commands_of_a_page_share_a_shell_that_starts_in_an_empty_folder() -> None:
    first = page("$ ls", "$ mkdir inner && cd inner", "$ false")
    second = page("$ echo $?", "1", "$ cd .. && ls", "inner")
    assert not run_page(first + second)[1]


def test_errors_are_output() -> None:
    assert not run_page(page("$ echo wrong >&2", "wrong"))[1]


def test_python_is_this_interpreter() -> None:
    program = "import sys; print(sys.executable)"
    assert not run_page(page(f"$ python -c '{program}'", sys.executable))[1]


def test_the_console_script_is_that_of_this_interpreter() -> None:
    text, _ = run_page(page("$ resnet-sweep diff logged_run_1", "...", "$ echo $?"))
    assert text == page("$ resnet-sweep diff logged_run_1", "...", "$ echo $?", "2")


def test_blocks_of_another_kind_are_left_alone() -> None:
    text = page("$ echo one", "two", kind="text")
    assert run_page(text) == (text, [])


def test_an_indented_block_stays_indented() -> None:
    text, _ = run_page("1. An item\n\n   ```console\n   $ echo one\n   ```\n")
    assert text == "1. An item\n\n   ```console\n   $ echo one\n   one\n   ```\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("best 98.61%, gap -0.49%", "best 100.00%, gap 1.20%"),
        ("+1.53 [-0.24, +3.29]", "-11.53 [-20.24, -3.29]"),
        ("lr 1e-05", "lr 0.000012"),
        ("best 9.3 s  ", "best    1 min 03 s"),
        ("time  4 min 05 s", "time  13 h 20 min"),
        ("outputs/2026-11-28/15-52-37/plots", "outputs/2027-01-01/00-00-00/plots"),
        ("2026-11-23 05:38", "2026-12-24 18:00"),
        ("signature c6f20c5e90681adc", "signature 16f20c5e90681ad0"),
        ("1,437 images", "1,437  images"),
        ("1,215.50 images/s", "15.25 images/s"),
        ("9,46.75,0.5", "9,50.0,0.25"),
        ("  Device:  cpu, 1 threads, float32", "  Device:  cpu, 1 threads, bfloat16"),
    ],
)
def test_measured_values_may_differ(one: str, other: str) -> None:
    assert structure(one) == structure(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5  3  98.19 ± 0.59%  better", "0.5  3  98.19 ± 0.59%  worse"),
        ("[1/6] job 0 finished", "[1/6] job 1 finished"),
        ("optim.lr=0.5", "optim.lr=0.1"),
        ("optim.weight_decay=1e-3", "optim.weight_decay=1e-4"),
        ("resnet8v2, 77,850 parameters", "resnet8v2, 77,851 parameters"),
        ("weight_decay_1e-3", "weight_decay_1e-4"),
        ("9,46.75,0.5", "10,46.75,0.5"),
        ("version 0.1.0", "version 0.2.0"),
    ],
)
def test_words_whole_numbers_and_settings_may_not_differ(one: str, other: str) -> None:
    assert structure(one) != structure(other)


def test_lines_that_are_left_out_may_be_any() -> None:
    for shown in (
        ["1", "...", "4"],
        ["...", "2", "...", "4"],
        ["..."],
        ["1", "2", "...", "3", "4"],
    ):
        text = page("$ seq 4", *shown)
        assert run_page(text) == (text, [])


def test_lines_around_those_that_are_left_out_may_not_differ() -> None:
    for shown in (["2", "...", "4"], ["1", "...", "3"], ["1", "...", "5", "...", "4"]):
        assert run_page(page("$ seq 4", *shown))[1]


def test_lines_that_are_left_out_stay_left_out_when_others_change() -> None:
    text, _ = run_page(page("$ seq 9", "one", "...", "eight", "nine"))
    assert text == page("$ seq 9", "1", "...", "8", "9")


def test_lines_that_report_progress_are_left_out() -> None:
    lines = ("1 of 2 jobs composed", "0 of 2 done, 1 running, 1 pending", "2 of 2 jobs finished")
    text = page(f"$ printf '%s\\n' {' '.join(map(repr, lines))}", lines[-1])
    assert run_page(text) == (text, [])


def test_a_shell_that_ends_early_is_an_error() -> None:
    with pytest.raises(SystemExit, match="exit 3"):
        run_page(page("$ echo one", "$ exit 3", "$ echo two"))


def test_check_finds_a_changed_word_and_writes_nothing(call: Command, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    text = page("$ echo verdict: worse", "verdict: better")
    path.write_text(text)
    done = call(transcripts.main, path, "--check")
    assert done.returncode == 1
    assert "$ echo verdict: worse" in done.stdout
    assert "-verdict: better" in done.stdout.splitlines()
    assert "+verdict: worse" in done.stdout.splitlines()
    assert path.read_text() == text


def test_a_page_that_was_written_passes_the_check(call: Command, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page("$ echo verdict: worse", "verdict: better"))
    assert call(transcripts.main, path).returncode == 0
    assert path.read_text() == page("$ echo verdict: worse", "verdict: worse")
    assert call(transcripts.main, path, "--check").returncode == 0


def test_check_looks_at_all_pages(call: Command, tmp_path: Path) -> None:
    wrong, right = tmp_path / "wrong.md", tmp_path / "right.md"
    wrong.write_text(page("$ echo one", "two"))
    right.write_text(page("$ echo one", "one"))
    assert call(transcripts.main, wrong, right, "--check").returncode == 1
    assert call(transcripts.main, right, "--check").returncode == 0
