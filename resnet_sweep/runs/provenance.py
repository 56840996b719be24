"""The provenance of a run: `.hydra/`, versions of packages, git commit."""

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

HYDRA_FOLDER = ".hydra"
PACKAGES = ("resnet-sweep", "torch", "torchvision", "hydra-core", "omegaconf", "numpy")


if TYPE_CHECKING:
    from yaml import SafeDumper
else:
    # The dumper in C is faster, but not every installation has it.
    SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(SafeDumper):
    """Writes a value as text if YAML doesn't have its type."""


_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_hydra_folder(
    directory: Path, settings: Mapping[str, Any], hydra: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Write `.hydra/` in a run directory: the config, its `hydra` node, and the overrides."""
    folder = directory / HYDRA_FOLDER
    contents = {"config": settings, "hydra": {"hydra": hydra}, "overrides": list(overrides)}
    texts = {
        folder / f"{name}.yaml": yaml.dump(
            content, Dumper=_Dumper, sort_keys=False, allow_unicode=True
        )
        for name, content in contents.items()
    }
    while True:
        folder.mkdir(exist_ok=True)
        # Another process that created the folder may remove it while it is empty.
        with contextlib.suppress(FileNotFoundError):
            for path, text in texts.items():
                path.write_text(text, encoding="utf-8")
            return


def read_hydra_job(directory: Path) -> dict[str, Any]:
    """Return `hydra.job` from the `.hydra/` of a run directory."""
    text = (directory / HYDRA_FOLDER / "hydra.yaml").read_text(encoding="utf-8")
    job: dict[str, Any] = yaml.load(text, Loader=_Loader)["hydra"]["job"]
    return job


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect the results of a run."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def git_commit() -> str | None:
    """Return the git commit of this package, see `commit_of`; None if it isn't in a clone."""
    clone = Path(__file__).parents[2]
    return commit_of(clone) if (clone / ".git").exists() else None


def commit_of(folder: Path) -> str | None:
    """Return the git commit of the repository that contains a folder; None without git.

    A "+" at its end means that tracked files have changes that aren't committed.
    """
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(
            git, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
