"""Finding the runs below some directories, or those that a command line names."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.compare.safe_read import LARGEST_SWEEP, read_limited
from resnet_sweep.errors import ConfigError

# The runs of the training log, a run directory each.
LOGGED_RUNS = Path(__file__).parent / "logged_runs"


class _Job(BaseModel):
    """What is read of a job in `sweep.json`: its directory, and its choice in each group."""

    directory: str
    choices: dict[str, str] = {}


class _Sweep(BaseModel):
    jobs: list[_Job]


def find_runs(paths: Iterable[str | Path]) -> list[LoadedRun | BrokenRun]:
    """Return all runs in some directories or below, newest first and broken ones last.

    Links, hidden folders and folders below a run directory are skipped. The runs that a sweep
    reuses are found with it. A run that is in several of the directories is returned once.

    Args:
        paths: directories, runs themselves, or names of logged runs.

    Raises:
        ConfigError: one of them doesn't exist.
    """
    seen: set[tuple[int, int]] = set()
    found = [run for path in paths for run in _search(_existing(path), str(path), seen)]
    return sorted(found, key=_order)


def resolve_run(path: str | Path) -> Path:
    """Return the directory of a run that a command line names by it, or by a logged run's name.

    Raises:
        ConfigError: it is neither.
    """
    return _resolve_run(path, logged_runs())


def _resolve_run(path: str | Path, others: Sequence[str]) -> Path:
    """Return the directory of a run; an error message suggests the names of other runs."""
    suggestions = " or ".join(["name a run directory, such as outputs/DATE/TIME", *others])
    directory = _existing(path, suggestions)
    if not os.path.lexists(directory / "run.json"):
        raise ConfigError(
            f"{shown(str(path))} isn't a run directory (it has no run.json): {suggestions}"
        )
    return directory


def resolve_trained_run(path: str | Path) -> Path:
    """Return the directory of a run that has weights, as `resolve_run` does.

    Raises:
        ConfigError: there is none, or it is a logged run, which has no weights.
    """
    directory = _resolve_run(path, ())
    if directory.parent == LOGGED_RUNS:
        raise ConfigError(
            f"{shown(str(path))} comes from the training log without its weights: name a run that "
            "was trained, such as outputs/DATE/TIME"
        )
    return directory


def read_run(path: str | Path) -> LoadedRun:
    """Return the run that a command line names, see `resolve_run`.

    Raises:
        ConfigError: there is none, or its record can't be read.
    """
    run = load_run(resolve_run(path), str(path))
    if isinstance(run, BrokenRun):
        raise ConfigError(
            f"{shown(run.name)} can't be read, because {shown(run.error)}: restore it, or name "
            "another run"
        )
    return run


def logged_runs() -> list[str]:
    """Return the names of the logged runs that come with this package."""
    return sorted(path.name for path in LOGGED_RUNS.iterdir() if path.is_dir())


def _existing(path: str | Path, suggestions: str = "") -> Path:
    if os.path.isdir(path):
        return Path(path)
    if str(path) in logged_runs():
        return LOGGED_RUNS / path
    suggestions = suggestions or f"name one with runs, or {' or '.join(logged_runs())}"
    raise ConfigError(f"{shown(str(path))} isn't a directory: {suggestions}")


def _search(top: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[LoadedRun | BrokenRun]:
    """Yield the runs in a directory or below, each named by its path from there behind `name`."""
    errors: list[OSError] = []
    for path, folders, files in os.walk(top, onerror=errors.append):
        named = os.path.normpath(os.path.join(name, os.path.relpath(path, top)))
        is_run = "run.json" in (*folders, *files)
        folders[:] = [folder for folder in folders if not (is_run or folder.startswith("."))]
        if not _is_new(path, seen):
            folders.clear()
        elif is_run:
            yield load_run(Path(path), named)
        elif "sweep.json" in files:
            for place, choices in _reused(path):
                there, known = (os.path.normpath(os.path.join(at, place)) for at in (path, named))
                if _is_new(there, seen):
                    run = load_run(Path(there), known)
                    yield run.with_choices(choices) if isinstance(run, LoadedRun) else run
    for error in errors:
        named = os.path.join(name, os.path.relpath(error.filename, top))
        reason = f"it can't be read ({error.strerror})"
        yield BrokenRun(Path(error.filename), os.path.normpath(named), reason)


def _is_new(path: str, seen: set[tuple[int, int]]) -> bool:
    """Return whether a directory is there and hasn't been seen, and note that it has."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    before = len(seen)
    seen.add((status.st_dev, status.st_ino))
    return len(seen) > before


def _reused(sweep: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the directories, from there, and choices of the runs that a sweep reuses."""
    try:
        content = read_limited(Path(sweep, "sweep.json"), LARGEST_SWEEP)
        jobs = _Sweep.model_validate_json(content).jobs
    except (OSError, ValueError):
        # The runs in its own directory are found without sweep.json.
        return
    for job in jobs:
        place = os.path.normpath(job.directory)
        outside = place.startswith(os.pardir) or os.path.isabs(place)
        if outside and os.path.isfile(os.path.join(sweep, place, "run.json")):
            yield place, job.choices


def _order(run: LoadedRun | BrokenRun) -> tuple[bool, float, list[str | int]]:
    # Jobs of a sweep that were started in the same second stay in the order of their numbers.
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", run.name)]
    if isinstance(run, BrokenRun):
        return True, 0.0, parts
    return False, -(run.started or 0.0), parts
