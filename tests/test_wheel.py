"""The wheel, which works without a clone of the repository."""

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
    process = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in process.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture
def wheel(once: Once) -> Path:
    """Return the folder of the unpacked wheel."""

    def build(folder: Path) -> None:
        # The build writes files beside the sources, so it uses a copy of them.
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


def test_the_wheel_contains_every_module_and_config(wheel: Path) -> None:
    for source, target in (("resnet_sweep", "resnet_sweep"), ("conf", "resnet_sweep/conf")):
        expected = {
            Path(name).relative_to(source) for name in tracked() if name.startswith(f"{source}/")
        }
        packaged = {path.relative_to(wheel / target) for path in (wheel / target).rglob("*.*")}
        assert expected <= packaged


def test_the_commands_of_the_wheel_work_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    def run(*arguments: str, **options: str) -> subprocess.CompletedProcess:
        environment = {"PYTHONPATH": str(wheel)}
        return processes.run(tmp_path, *arguments, environment=environment, **options)

    (tmp_path / "where.py").write_text("import resnet_sweep; print(resnet_sweep.__file__)")
    assert Path(run(module="where").stdout.strip()).is_relative_to(wheel)
    process = run(*TINY, "hydra.run.dir=outputs/run")
    assert process.returncode == 0, process.stderr
    record = json.loads((tmp_path / "outputs" / "run" / "run.json").read_text())
    assert record["state"] == "finished"
    process = run("runs", "--json")
    assert process.returncode == 0, process.stderr
    # The logged runs are part of the package. `diff` exits with 1 because they differ.
    assert run("diff", "logged_run_1", "logged_run_2").returncode == 1
    process = run("report", "outputs", "-o", "report.html")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
