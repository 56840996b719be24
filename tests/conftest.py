"""What the tests share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Processes of tests side by side share the cores, or each has threads for all of them.
if side_by_side := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(side_by_side))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

ROOT = Path(__file__).parents[1]
CIFAR100_ROOTS = (os.environ.get("RESNET_SWEEP_DATA"), ROOT.parent / "shared" / "data")

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def cifar100_root() -> Path:
    """The folder with the real CIFAR-100, whose tests are left out where it isn't."""
    for candidate in CIFAR100_ROOTS:
        if candidate and (Path(candidate) / "cifar100" / "train_images.npy").exists():
            return Path(candidate).resolve()
    pytest.skip("CIFAR-100 isn't on this machine; RESNET_SWEEP_DATA names its folder")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs `python -m resnet_sweep ...` in an empty folder, as a user does."""

    def run(*arguments: str, module: str = "resnet_sweep", **environment: str):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=tmp_path,
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Runs a command's `main` as `command` does, but in this process, which is faster."""

    def run(main: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as leaving:
            status = leaving.code
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def clean_environment() -> dict[str, str]:
    """The environment without what a developer may have set for this program."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RESNET_SWEEP_", "HYDRA_"))
    }
