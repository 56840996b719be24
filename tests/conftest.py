"""Fixtures that several test files use, and the two tiers of the tests.

`pytest` runs the default tier, which proves each promise once and takes minutes. `pytest --all`
runs the tests that are marked as slow as well.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import processes
import pytest
from filelock import FileLock
from fork_server import preload

# Test processes side by side share the cores, and small tensors gain nothing by more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
CIFAR100_ROOTS = (os.environ.get("RESNET_SWEEP_DATA"), ROOT.parent / "shared" / "data")
# A test of the default tier that takes longer fails. Fixtures don't count, and the limit grows with
# the load of a machine that has more processes to run than cores.
LIMIT_SECONDS = 10

Command = Callable[..., subprocess.CompletedProcess]
Once = Callable[[str, Callable[[Path], None]], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = any("::" in argument for argument in config.args)
    if config.option.all or config.option.markexpr or named:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_collection_finish(session: pytest.Session) -> None:
    # The server takes seconds to start, and so do the imports of a process's first training.
    # Among several files there are some that need them, and no test's time is to include them.
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
            f"{limit:.0f} s: make it smaller, or mark it with @pytest.mark.slow"
        )
    return report


@pytest.fixture(scope="session")
def cifar100_root() -> Path:
    """Return the folder with the real CIFAR-100, or skip the test where there is none."""
    for candidate in CIFAR100_ROOTS:
        if candidate and (Path(candidate) / "cifar100" / "train_images.npy").exists():
            return Path(candidate).resolve()
    pytest.skip(
        "CIFAR-100 isn't on this machine: set RESNET_SWEEP_DATA to the folder that holds cifar100/"
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder once for all test processes: `once(name, make)` returns `make`'s folder.

    What several tests only read is made here. `make` gets an empty folder.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        made = base / "once" / name
        made.parent.mkdir(exist_ok=True)
        done = made.with_name(f"{name}.done")
        with FileLock(made.with_name(f"{name}.lock")):
            if not done.exists():
                # An attempt that failed may have left something.
                shutil.rmtree(made, ignore_errors=True)
                made.mkdir()
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run `python -m resnet_sweep ...` in an empty folder, as a user does; see `processes`."""

    def run(
        *arguments: object, module: str = "resnet_sweep", cold: bool = False, **environment: str
    ) -> subprocess.CompletedProcess:
        return processes.run(
            tmp_path, *arguments, module=module, cold=cold, environment=environment
        )

    return run


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Run a command's `main` as `command` does, but in this process, which is faster."""

    def run(main: Callable[[], None], *arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        # A process has these to itself, and here they'd be those of the tests before.
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run
