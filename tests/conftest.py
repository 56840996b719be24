"""Fixtures for several test files, and the two tiers of the tests.

`pytest` runs the default tier, which takes minutes. `pytest --all` also runs the tests that are
marked as slow.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import processes
import pytest
from filelock import FileLock
from fork_server import preload

if TYPE_CHECKING:
    from made_up_results import MadeUpResults, MakeUp, Result

# Parallel test processes share the cores, and more threads don't make small tensors faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
CIFAR100_ROOTS = (os.environ.get("RESNET_SWEEP_DATA"), ROOT.parent / "shared" / "data")
# A test of the default tier that takes longer fails. The time of fixtures doesn't count. The limit
# grows with the load of a machine that has more processes to run than cores.
LIMIT_SECONDS = 10

Command = Callable[..., subprocess.CompletedProcess]
Once = Callable[[str, Callable[[Path], None]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the slow tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selects_tests = any("::" in argument for argument in config.args)
    if config.option.all or config.option.markexpr or selects_tests:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_collection_finish(session: pytest.Session) -> None:
    # The fork server and the imports of the first training take seconds, which must not count as
    # time of a test. In a session with several files, some tests need them.
    distributed = getattr(session.config.option, "dist", "no") != "no"
    is_controller = distributed and "PYTEST_XDIST_WORKER" not in os.environ
    if len({item.path for item in session.items}) > 1 and not is_controller:
        processes.start_server()
        preload()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Iterator[pytest.TestReport]:
    report = yield
    option = item.config.option
    limited = not (option.all or option.markexpr or item.get_closest_marker("slow"))
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    limit = LIMIT_SECONDS * max(1, load)
    if limited and report.passed and call.when == "call" and call.duration > limit:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {call.duration:.1f} s, and a test of the default tier may take "
            f"{limit:.0f} s; make it smaller, or mark it with @pytest.mark.slow"
        )
    return report


@pytest.fixture(scope="session")
def cifar100_root() -> Path:
    """Return the folder that contains CIFAR-100, or skip the test if there is none."""
    for candidate in CIFAR100_ROOTS:
        if candidate and (Path(candidate) / "cifar100" / "train_images.npy").exists():
            return Path(candidate).resolve()
    pytest.skip(
        "there is no CIFAR-100; set RESNET_SWEEP_DATA to the folder that contains cifar100/"
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once for all test processes: `once(name, make)` returns the folder.

    `make` gets an empty folder and fills it. Tests may only read it.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        target = base / "once" / name
        target.parent.mkdir(exist_ok=True)
        marker = target.with_name(f"{name}.done")
        with FileLock(target.with_name(f"{name}.lock")):
            if not marker.exists():
                # An attempt that failed may have left files.
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                make(target)
                marker.touch()
        return target

    return folder


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs `python -m resnet_sweep ...` in the test's empty folder."""

    def run(
        *arguments: object, module: str = "resnet_sweep", cold: bool = False, **environment: str
    ) -> subprocess.CompletedProcess:
        return processes.run(
            tmp_path, *arguments, module=module, cold=cold, environment=environment
        )

    return run


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Return a function like `command` that calls `main` in this process, which is faster."""

    def run(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        # The command sets this variable of Hydra's, and monkeypatch restores it after the test.
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        status = 0
        try:
            main()
        except SystemExit as system_exit:
            status = system_exit.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


@pytest.fixture
def make_up(monkeypatch: pytest.MonkeyPatch) -> "MakeUp":
    """Return a function that replaces training in this process by made-up results."""
    # These import torch, which most tests don't need in this process.
    from made_up_results import MadeUpResults

    from resnet_sweep.sweeps import launchers

    def replace(result: "Result") -> "MadeUpResults":
        launcher = MadeUpResults(result)
        monkeypatch.setattr(launchers, "InProcessLauncher", lambda: launcher)
        return launcher

    return replace
