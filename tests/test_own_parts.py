"""The files and commands on the how-to page on own parts work, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command
from processes import clean_environment

from resnet_sweep.runs.record import Record

PAGE = (ROOT / "docs" / "how-to" / "own_parts.md").read_text(encoding="utf-8")
# A line with the name of a file, and the code block with its content.
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TRANSCRIPTS = re.findall(r"^```text\n\$ (.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What makes a run short, and keeps a sweep from starting other processes.
SHORT = (
    "trainer.epochs=1",
    "trainer.max_steps=2",
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.limit_train=256",
    "data.limit_test=32",
)


def write_files(folder: Path) -> None:
    """Write the files of the page into a folder."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def commands(block: str) -> list[list[str]]:
    """Return the lines of a code block as words, without the name of the program."""
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    programs = (["python", "-m", "resnet_sweep"], ["resnet-sweep"])
    for line in lines:
        for program in programs:
            if line[: len(program)] == program:
                del line[: len(program)]
    return lines


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Write the files, and return the variables that the page sets."""
    write_files(tmp_path)
    return dict(re.findall(r"^export (\w+)=(\w+)$", "".join(BLOCKS), re.MULTILINE))


@pytest.mark.parametrize("block", BLOCKS)
def test_the_commands_train(
    block: str, command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    for line in commands(block):
        if line[0] == "export":
            continue
        if "=" in line[-1]:
            line += [*SHORT, *["hydra/launcher=basic"][: "--multirun" in line]]
        done = command(*line, **environment)
        assert done.returncode == 0, done.stderr
    states = [Record.read(path.parent).state for path in tmp_path.rglob("run.json")]
    assert states
    assert {*states} == {"finished"}


@pytest.mark.parametrize(("line", "output"), TRANSCRIPTS)
def test_the_transcripts_are_current(
    line: str, output: str, command: Command, environment: dict[str, str]
) -> None:
    done = command(*commands(line)[0], **environment)
    assert done.stdout + done.stderr == output


def test_all_files_are_used() -> None:
    """A file whose name the page doesn't repeat in a command or another file would be untested."""
    text = " ".join([*BLOCKS, *FILES.values()])
    for name in FILES:
        path = Path(name)
        if path.suffix == ".yaml":
            assert f"{path.parent.name}={path.stem}" in text or f"- {path.stem}\n" in text
        elif path.stem != "__init__":
            assert f"{path.parent.name}.{path.stem}." in text


@pytest.mark.slow
def test_the_commands_work_in_a_shell(tmp_path: Path) -> None:
    """Also as a console script, which has another search path for modules."""
    write_files(tmp_path)
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", "".join(BLOCKS)],
        cwd=tmp_path,
        env=clean_environment() | {"PATH": search_path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "mine" / "evaluation").is_dir()
