"""Finding the runs below some directories, or those that a command line names."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.compare.safe_read import LARGEST_SWEEP, read_limited
from resnet_sweep.errors import ConfigError

# The runs of the training log, a run directory each.
LOGGED_RUNS = Path(__file__).parent / "logged_runs"


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
    """Return the directory of a run that a command line names.

    Args:
        path: a run directory, or the name of a logged run that comes with this package.

    Raises:
        ConfigError: it is neither.
    """
    directory = _existing(path)
    if not os.path.lexists(directory / "run.json"):
        raise ConfigError(
            f"{shown(str(path))} isn't a run directory (it has no run.json): name one, such as "
            f"outputs/DATE/TIME, or {' or '.join(logged_runs())}"
        )
    return directory


def resolve_trained_run(path: str | Path) -> Path:
    """Return the directory of a run that has weights, as `resolve_run` does.

    Raises:
        ConfigError: there is none, or it is a logged run, which has no weights.
    """
    directory = resolve_run(path)
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


def _existing(path: str | Path) -> Path:
    if os.path.isdir(path):
        return Path(path)
    if str(path) in logged_runs():
        return LOGGED_RUNS / path
    raise ConfigError(
        f"{shown(str(path))} isn't a directory: name one with runs, or {' or '.join(logged_runs())}"
    )


def _search(top: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[LoadedRun | BrokenRun]:
    """Yield the runs in a directory or below, each named by its path from there behind `name`."""
    queue: list[tuple[str, str, dict[str, str]]] = [(str(top), os.path.normpath(name), {})]
    while queue:
        path, name, choices = queue.pop()
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as listing:
                inside = list(listing)
            folders = [
                entry.name
                for entry in inside
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
        except OSError as error:
            yield BrokenRun(Path(path), name, f"it can't be read ({error.strerror})")
            continue
        names = {entry.name for entry in inside}
        if "run.json" in names:
            run = load_run(Path(path), name)
            yield run.with_choices(choices) if isinstance(run, LoadedRun) else run
            continue
        if "sweep.json" in names:
            for place, chosen in _reused(path):
                there, named = (os.path.normpath(os.path.join(top, place)) for top in (path, name))
                queue.append((there, named, chosen))
        for folder in folders:
            below = folder if name == "." else os.path.join(name, folder)
            queue.append((os.path.join(path, folder), below, {}))


def read_choices(job: Mapping[str, Any]) -> dict[str, str]:
    """Return the choices that a sweep made for a job of its `sweep.json`; empty if it has none.

    Raises:
        TypeError: they aren't a mapping to text.
    """
    choices = job.get("choices", {})
    if not isinstance(choices, dict) or not all(isinstance(name, str) for name in choices.values()):
        raise TypeError("choices aren't a mapping to text")
    return choices


def _reused(sweep: str) -> list[tuple[str, dict[str, str]]]:
    """Return the directories, from there, and choices of the runs that a sweep reuses."""
    try:
        jobs = json.loads(read_limited(Path(sweep, "sweep.json"), LARGEST_SWEEP))["jobs"]
        found = [(os.path.normpath(job["directory"]), read_choices(job)) for job in jobs]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # The runs in its own directory are found without sweep.json.
        return []
    return [
        (place, choices)
        for place, choices in found
        if (place.startswith(os.pardir) or os.path.isabs(place))
        and os.path.isfile(os.path.normpath(os.path.join(sweep, place, "run.json")))
    ]


def _order(run: LoadedRun | BrokenRun) -> tuple[bool, float, list[str | int]]:
    # Jobs of a sweep that were started in the same second stay in the order of their numbers.
    parts = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", run.name)]
    if isinstance(run, BrokenRun):
        return True, 0.0, parts
    return False, -(run.started or 0.0), parts
