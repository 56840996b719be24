"""The reliability and security tests of benchmarks/reliability.py, with small counts."""

import processes
import pytest
from conftest import ROOT

from benchmarks.reliability import PARTS

# These parts take only seconds, and no other test of the default tier has their cases.
FAST = {"hostility": 5}


def assert_part_passes(part: str, count: int) -> None:
    # The part forks processes, and torch doesn't work in the fork of a process that has trained.
    result = processes.run(
        ROOT, "--part", part, "--count", count, module="benchmarks.reliability", timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"| {count} |" in result.stdout


@pytest.mark.parametrize("part", FAST)
def test_a_few_faults_lose_no_run_and_execute_no_hostile_file(part: str) -> None:
    assert_part_passes(part, FAST[part])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_faults_lose_no_run_and_execute_no_hostile_file(part: str) -> None:
    assert_part_passes(part, PARTS[part][0])
