r"""Run the commands that a page shows, and write their output into the page.

python -m benchmarks.transcripts PAGE... [--check]
python -m benchmarks.transcripts docs/tutorial.md --check

A transcript is a block of the kind `console`: a command is a line that starts with `$ `, with the
lines that follow a backslash, and its output ends at the next `$ `. The commands of a page run in
order in one Bash, which starts in an empty folder. `python` and `resnet-sweep` are those of this
interpreter. Blocks of other kinds (`bash`, `text`) don't run.

A line `...` in an output stands for any number of lines, and stays when the page is written. To see
all lines, delete it first. Lines in which a sweep reports its progress are always left out.

`--check` changes no page, prints what differs, and exits with 1 if anything does. Words, whole
numbers and settings (`optim.lr=0.1`) have to be equal. Decimal numbers, durations, dates, times,
hashes, the device and the widths of columns may differ.
"""

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LEFT_OUT = "..."
# What differs between executions and machines. Each pattern gets what the ones before it left.
MEASURED = {
    "DEVICE": r"Device: .*",
    "DATE": r"\d{4}-\d\d-\d\d",
    "TIME": r"\d\d([-:])\d\d\1\d\d|\d\d:\d\d",
    "DURATION": r"[-+]?(\d+ h \d\d min|\d+ min \d\d s|\d+\.\d s)",
    "HASH": r"(?=[a-f]*\d)[0-9a-f]{7,40}",
    "NUMBER": r"[-+]?((\d{1,3}(,\d{3})+|\d+)\.\d+(e[-+]\d+)?|\d+e[-+]\d+)",
}
# A sweep that takes long prints these lines at intervals.
PROGRESS = re.compile(r"\d+ of \d+ (jobs (composed|written)|done, .*)")
WIDTH = 100  # of the terminal that tables are made for
FUNCTIONS = """exec 2>&1
python() { "$THIS_PYTHON" "$@"; }
resnet-sweep() { "$THIS_PYTHON" -m resnet_sweep "$@"; }
"""


def structure(line: str) -> str:
    """Return a line of output with a name in place of each measured value, and single spaces."""
    for name, pattern in MEASURED.items():
        line = re.sub(rf"(?<![\w.=])(?:{pattern})(?!\.?\w)", name, line)
    return " ".join(line.split())


def fill(shown: Sequence[str], output: Sequence[str]) -> list[str] | None:
    """Return the lines of the output that are shown, with `...`, or None if they don't fit."""
    if not shown:
        return None if output else []
    if shown[0] == LEFT_OUT:
        fitting = (fill(shown[1:], output[start:]) for start in range(len(output) + 1))
        rest = next((lines for lines in fitting if lines is not None), None)
        return None if rest is None else [LEFT_OUT, *rest]
    if not output or structure(shown[0]) != structure(output[0]):
        return None
    rest = fill(shown[1:], output[1:])
    return None if rest is None else [output[0], *rest]


def excerpt(shown: Sequence[str], output: Sequence[str]) -> list[str]:
    """Return as many first and last lines of the output as are shown around the `...`."""
    if LEFT_OUT not in shown:
        return [*output]
    first = shown.index(LEFT_OUT)
    last = shown[::-1].index(LEFT_OUT)
    return [*output[:first], LEFT_OUT, *output[max(first, len(output) - last) :]]


def execute(commands: Sequence[str]) -> list[list[str]]:
    """Run commands in a shell in an empty folder; return the lines that each of them prints."""
    # A zero byte ends the output of a command, and `$?` remains what the command left.
    end = "status=$?; printf '\\0'; (exit $status)"
    script = FUNCTIONS + "".join(f"{command}\n{end}\n" for command in commands)
    variables = {"COLUMNS": str(WIDTH), "THIS_PYTHON": sys.executable}
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ).stdout
    outputs = printed.split("\0")
    if len(outputs) <= len(commands):
        raise SystemExit(f"error: the shell ended in {commands[len(outputs) - 1]!r}: {outputs[-1]}")
    return [
        [line.rstrip() for line in output.splitlines() if not PROGRESS.fullmatch(line)]
        for output in outputs[:-1]
    ]


def run_page(text: str) -> tuple[str, list[str]]:
    """Run the transcripts of a page.

    Returns:
        The page with the output of its commands, and for each command whose structure differs from
        what the page shows, a text that says how.
    """
    found = [
        command
        for block in BLOCK.finditer(text)
        for command in COMMAND.finditer(textwrap.dedent(block[2]))
    ]
    updated, differences = [], []
    for command, output in zip(found, execute([match[1] for match in found]), strict=True):
        shown = command[2].splitlines()
        lines = fill(shown, output)
        if lines is None:
            lines = excerpt(shown, output)
            old, new = ([*map(structure, some)] for some in (shown, lines))
            changes = difflib.unified_diff(old, new, "shown", "printed", lineterm="")
            differences.append("\n".join([f"$ {command[1]}", *changes]))
        updated.append("".join(f"{line}\n" for line in [f"$ {command[1]}", *lines]))
    remaining = iter(updated)

    def write(block: re.Match[str]) -> str:
        body = COMMAND.sub(lambda _: next(remaining), textwrap.dedent(block[2]))
        return f"{block[1]}```console\n{textwrap.indent(body, block[1])}{block[1]}```"

    return BLOCK.sub(write, text), differences


def main() -> None:
    """Write the output of their commands into pages, or compare it with what they show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transcripts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pages", metavar="PAGE", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    arguments = parser.parse_args()
    differ = False
    for page in arguments.pages:
        text, differences = run_page(page.read_text(encoding="utf-8"))
        for difference in differences:
            print(f"{page}: {difference}\n")
        differ |= bool(differences)
        if not arguments.check:
            page.write_text(text, encoding="utf-8")
    sys.exit(1 if arguments.check and differ else 0)


if __name__ == "__main__":
    main()
