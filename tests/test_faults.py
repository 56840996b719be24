"""Nothing is lost and nothing let in, in a bounded part of what benchmarks/reliability.py does."""

import subprocess
import sys

import pytest
from conftest import ROOT
from processes import clean_environment

from benchmarks.reliability import PARTS


@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_lost_and_nothing_let_in(part: str) -> None:
    # In a process of its own: a fork of one that trained has torch without its threads.
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability", "--part", part],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {PARTS[part][0]} |" in done.stdout
