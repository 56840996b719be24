"""The wheel holds all that the program needs, and works without the clone."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import processes
import pytest
from conftest import ROOT, Once
from small_sweep import TINY


def tracked() -> list[str]:
    """Return the files of the project that are under version control and exist."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [name for name in listed.splitlines() if (ROOT / name).exists()]


@pytest.fixture
def wheel(once: Once) -> Path:
    """Return the folder that the unpacked wheel is in."""

    def build(folder: Path) -> None:
        # The build writes beside the sources, so it gets a copy of them.
        for name in tracked():
            if not name.startswith(("tests/", "docs/", "benchmarks/")):
                target = folder / "source" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((ROOT / name).read_bytes())
        subprocess.run(
            [
                sys.executable,
                "-m",
                "build",
                "--wheel",
                "--no-isolation",
                "--outdir",
                folder,
                folder / "source",
            ],
            check=True,
            capture_output=True,
        )
        (file,) = folder.glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder / "unpacked")

    return once("wheel", build) / "unpacked"


def test_wheel_holds_every_module_and_config(wheel: Path) -> None:
    for ours, theirs in (("resnet_sweep", "resnet_sweep"), ("conf", "resnet_sweep/conf")):
        expected = {
            Path(name).relative_to(ours) for name in tracked() if name.startswith(f"{ours}/")
        }
        found = {path.relative_to(wheel / theirs) for path in (wheel / theirs).rglob("*.*")}
        assert expected <= found


def test_wheel_trains_and_compares_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    def run(*arguments: str, **options: str) -> subprocess.CompletedProcess:
        environment = {"PYTHONPATH": str(wheel)}
        return processes.run(tmp_path, *arguments, environment=environment, **options)

    (tmp_path / "where.py").write_text("import resnet_sweep; print(resnet_sweep.__file__)")
    assert Path(run(module="where").stdout.strip()).is_relative_to(wheel)
    trained = run(*TINY, "hydra.run.dir=outputs/run")
    assert trained.returncode == 0, trained.stderr
    record = json.loads((tmp_path / "outputs" / "run" / "run.json").read_text())
    assert record["state"] == "finished"
    listed = run("runs", "--json")
    assert listed.returncode == 0, listed.stderr
    # The logged runs ship with the package, and they differ.
    assert run("diff", "logged_run_1", "logged_run_2").returncode == 1
    reported = run("report", "outputs", "-o", "report.html")
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
