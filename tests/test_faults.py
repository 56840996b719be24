"""Nothing is lost and nothing let in, in a bounded part of what benchmarks/reliability.py does."""

import processes
import pytest
from conftest import ROOT

from benchmarks.reliability import PARTS

# That which proves in a few seconds what no other test of the default tier does.
FAST = {"hostility": 5}


def assert_nothing_lost(part: str, count: int) -> None:
    # In a process of its own: a fork of one that trained has torch without its threads.
    done = processes.run(
        ROOT, "--part", part, "--count", count, module="benchmarks.reliability", timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {count} |" in done.stdout


@pytest.mark.parametrize("part", FAST)
def test_nothing_is_lost_and_nothing_let_in_by_a_few_faults(part: str) -> None:
    assert_nothing_lost(part, FAST[part])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_nothing_is_lost_and_nothing_let_in(part: str) -> None:
    assert_nothing_lost(part, PARTS[part][0])
