"""Find the runs in directories, and the runs that a command line names."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.compare.safe_read import MAX_SWEEP_BYTES, read_limited
from resnet_sweep.errors import ConfigError

# Folder of the runs of the training log, which have the form of run directories.
LOGGED_RUNS = Path(__file__).parent / "logged_runs"


class _Job(BaseModel):
    """The part of a job in `sweep.json` that is read."""

    directory: str


class Replication(BaseModel):
    """The arguments of the `ReplicationRule` of a sweep with `replicates=auto`."""

    maximum: Annotated[int, Ge(1), Le(1000)]
    margin: float | None = None
    level: Annotated[float, Gt(0), Lt(1)]


class Definition(BaseModel):
    """The part of the definition in `sweep.json` that comparisons need.

    Attributes:
        baseline: the condition for the baseline; None without one.
        settings: the settings that all jobs have in common, by dotted name.
        replication: how a sweep with `replicates=auto` decides; None for other sweeps.
    """

    baseline: str | None = None
    settings: dict[str, Any] = {}
    replication: Replication | None = None


class _Sweep(BaseModel):
    definition: Definition = Definition()
    jobs: list[_Job]


class ComparedSweep(NamedTuple):
    """A sweep whose variants are compared with a baseline.

    Attributes:
        name: the directory as a user would type it. It isn't escaped; see `safe_text`.
        definition: a definition with a baseline.
        runs: the runs of the sweep.
    """

    name: str
    definition: Definition
    runs: list[LoadedRun | BrokenRun]


def find_compared_sweeps(paths: Iterable[str | Path]) -> list[ComparedSweep]:
    """Search directories for sweeps with a baseline, and return them, ordered by name.

    Symbolic links, hidden folders and folders inside a sweep are skipped.
    """
    found = {}
    for path in paths:
        for folder, folders, files in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if "sweep.json" not in files:
                continue
            folders.clear()
            sweep = _read_sweep(folder)
            if sweep is not None and sweep.definition.baseline is not None:
                found[os.path.realpath(folder)] = ComparedSweep(
                    os.path.normpath(folder), sweep.definition, find_runs([folder])
                )
    return sorted(found.values(), key=lambda sweep: sweep.name)


def find_runs(paths: Iterable[str | Path], copies: bool = False) -> list[LoadedRun | BrokenRun]:
    """Search directories for runs, and return them, newest first and broken ones last.

    Symbolic links, hidden folders and folders inside a run directory are skipped. Each run is
    returned once: a reused run is left out if the original or another copy of it is found, too.

    Args:
        paths: directories, run directories, or names of logged runs.
        copies: return all reused runs.

    Raises:
        ConfigError: a path doesn't exist.
    """
    seen: set[tuple[int, int]] = set()
    found = [run for path in paths for run in _search(_existing(path), str(path), seen)]
    return sorted(found if copies else _without_copies(found), key=_order)


def _without_copies(runs: Iterable[LoadedRun | BrokenRun]) -> Iterator[LoadedRun | BrokenRun]:
    """Yield the runs that were trained where they are, and one copy of each other reused run."""
    trained: set[tuple[str | None, ...]] = set()
    copies = []
    for run in runs:
        if isinstance(run, LoadedRun) and run.record.reused_from is not None:
            copies.append(run)
            continue
        if isinstance(run, LoadedRun):
            trained.add(_training(run))
        yield run
    for run in copies:
        if _training(run) not in trained:
            trained.add(_training(run))
            yield run


def _training(run: LoadedRun) -> tuple[str | None, ...]:
    """Return what a run and its copies have in common; it doesn't depend on their directories."""
    return run.record.signature, run.record.started, run.record.host


def resolve_run(path: str | Path) -> Path:
    """Return a run's directory.

    Args:
        path: a run directory, or the name of a logged run.

    Raises:
        ConfigError: `path` is neither.
    """
    return _resolve_run(path, logged_runs())


def _resolve_run(path: str | Path, others: Sequence[str]) -> Path:
    """Return the directory of a run; an error message suggests the names of other runs."""
    suggestions = " or ".join(["name a run directory, such as outputs/DATE/TIME", *others])
    directory = _existing(path, suggestions)
    if not os.path.lexists(directory / "run.json"):
        raise ConfigError(
            f"{safe_text(str(path))} isn't a run directory (it has no run.json): {suggestions}"
        )
    return directory


def resolve_trained_run(path: str | Path) -> Path:
    """Return a run's directory like `resolve_run`, but not of a logged run, which has no weights.

    Raises:
        ConfigError: `path` isn't a run directory, or names a logged run.
    """
    directory = _resolve_run(path, ())
    if directory.parent == LOGGED_RUNS:
        raise ConfigError(
            f"{safe_text(str(path))} is from the training log and has no weights: name a run "
            "directory, for example outputs/DATE/TIME"
        )
    return directory


def read_run(path: str | Path) -> LoadedRun:
    """Return the run at a path, see `resolve_run`.

    Raises:
        ConfigError: there is no run, or its record can't be read.
    """
    run = load_run(resolve_run(path), str(path))
    if isinstance(run, BrokenRun):
        raise ConfigError(
            f"{safe_text(run.name)} can't be read, because {safe_text(run.error)}: restore it, or "
            "name another run"
        )
    return run


def logged_runs() -> list[str]:
    """Return the names of the logged runs, which are part of this package."""
    return sorted(path.name for path in LOGGED_RUNS.iterdir() if path.is_dir())


def _existing(path: str | Path, suggestions: str = "") -> Path:
    if os.path.isdir(path):
        return Path(path)
    if str(path) in logged_runs():
        return LOGGED_RUNS / path
    suggestions = suggestions or f"name one with runs, or {' or '.join(logged_runs())}"
    raise ConfigError(f"{safe_text(str(path))} isn't a directory: {suggestions}")


def _search(top: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[LoadedRun | BrokenRun]:
    """Search `top` and yield its runs. A run's name is its path with `top` replaced by `name`."""
    errors: list[OSError] = []
    for path, folders, files in os.walk(top, onerror=errors.append):
        path_name = os.path.normpath(os.path.join(name, os.path.relpath(path, top)))
        is_run = "run.json" in (*folders, *files)
        folders[:] = [folder for folder in folders if not (is_run or folder.startswith("."))]
        if not _is_new(path, seen):
            folders.clear()
        elif is_run:
            yield load_run(Path(path), path_name)
    for error in errors:
        path_name = os.path.join(name, os.path.relpath(error.filename, top))
        reason = f"it can't be read ({error.strerror})"
        yield BrokenRun(Path(error.filename), os.path.normpath(path_name), reason)


def _is_new(path: str, seen: set[tuple[int, int]]) -> bool:
    """Return whether a directory exists and isn't in `seen`, and add it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    before = len(seen)
    seen.add((status.st_dev, status.st_ino))
    return len(seen) > before


def read_definition(sweep: Path) -> tuple[list[str], Definition]:
    """Return the directories of a sweep's jobs, in their order, and the definition of the sweep.

    Raises:
        ConfigError: `sweep` isn't a sweep directory.
    """
    found = _read_sweep(str(sweep))
    if found is None:
        raise ConfigError(
            f"{safe_text(str(sweep))} isn't a sweep directory, because its sweep.json is missing "
            "or can't be read: name one, such as multirun/DATE/TIME"
        )
    directories = [os.path.normpath(os.path.join(sweep, job.directory)) for job in found.jobs]
    return directories, found.definition


def _read_sweep(sweep: str) -> _Sweep | None:
    """Read the `sweep.json` of a sweep; return None if it can't be read."""
    try:
        content = read_limited(Path(sweep, "sweep.json"), MAX_SWEEP_BYTES)
        return _Sweep.model_validate_json(content)
    except (OSError, ValueError):
        return None


def _order(run: LoadedRun | BrokenRun) -> tuple[bool, float, list[str | int]]:
    # The numbers in names are compared as numbers, so that jobs of a sweep that were started in the
    # same second are in order.
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", run.name)]
    if isinstance(run, BrokenRun):
        return True, 0.0, parts
    return False, -(run.started or 0.0), parts
