"""The runs below some folders, or that a command line names."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.reading import LARGEST_SWEEP, read_limited
from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError

# The runs of the training log, a run directory each.
LOGGED_RUNS = Path(__file__).parent / "logged_runs"


def find_runs(paths: Iterable[str | Path]) -> list[Entry]:
    """All runs in some directories or below, newest first and damaged ones last.

    Links and hidden folders are left out, and what is below a run directory. A sweep has the runs
    that it took from elsewhere, too. A run that is in several of the directories is there once.

    Args:
        paths: directories, runs themselves, or names of logged runs.

    Raises:
        RequestError: one of them doesn't exist.
    """
    seen: set[tuple[int, int]] = set()
    found = [entry for path in paths for entry in _search(_existing(path), str(path), seen)]
    return sorted(found, key=_order)


def resolve_run(path: str | Path) -> Path:
    """The directory of a run that a command line names.

    Args:
        path: a run directory; or else the name of a logged run that comes with this package.

    Raises:
        RequestError: it is neither.
    """
    directory = _existing(path)
    if not os.path.lexists(directory / "run.json"):
        raise RequestError(
            f"{shown(str(path))} isn't a run directory (it has no run.json): name one, such as "
            f"outputs/DATE/TIME, or {' or '.join(logged_runs())}"
        )
    return directory


def resolve_trained_run(path: str | Path) -> Path:
    """As `resolve_run`, of a run that has weights.

    Raises:
        RequestError: there is none, or it is a logged run, of which only figures are known.
    """
    directory = resolve_run(path)
    if directory.parent == LOGGED_RUNS:
        raise RequestError(
            f"{shown(str(path))} comes from the training log without its weights: name a run that "
            "was trained, such as outputs/DATE/TIME"
        )
    return directory


def read_run(path: str | Path) -> Entry:
    """The run that a command line names, as `resolve_run` does.

    Raises:
        RequestError: there is none, or its record is damaged.
    """
    entry = Entry.read(resolve_run(path), str(path))
    if entry.damage:
        raise RequestError(
            f"{shown(entry.name)} can't be read, since {shown(entry.damage)}: put a sound copy "
            "there, or name another run"
        )
    return entry


def logged_runs() -> list[str]:
    """The names of the logged runs that come with this package."""
    return sorted(path.name for path in LOGGED_RUNS.iterdir() if path.is_dir())


def _existing(path: str | Path) -> Path:
    if os.path.isdir(path):
        return Path(path)
    if str(path) in logged_runs():
        return LOGGED_RUNS / path
    raise RequestError(
        f"{shown(str(path))} isn't a directory: name one with runs, or {' or '.join(logged_runs())}"
    )


def _search(top: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """The runs in a directory or below, each with its path from there behind `name`."""
    waiting: list[tuple[str, str, dict[str, str]]] = [(str(top), os.path.normpath(name), {})]
    while waiting:
        path, name, choices = waiting.pop()
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as listing:
                inside = list(listing)
            folders = [
                each.name
                for each in inside
                if not each.name.startswith(".") and each.is_dir(follow_symlinks=False)
            ]
        except OSError as error:
            yield Entry(Path(path), name, damage=f"it can't be read ({error.strerror})")
            continue
        names = {each.name for each in inside}
        if "run.json" in names:
            yield Entry.read(Path(path), name).asked(choices)
        else:
            if "sweep.json" in names:
                waiting += [
                    (*(os.path.normpath(os.path.join(top, each)) for top in (path, name)), asked)
                    for each, asked in _elsewhere(path)
                ]
            waiting += [
                (
                    os.path.join(path, folder),
                    folder if name == "." else os.path.join(name, folder),
                    {},
                )
                for folder in folders
            ]


def read_choices(job: Mapping[str, Any]) -> dict[str, str]:
    """The choices that a sweep made for a job, as `sweep.json` has it; none where it has none.

    Raises:
        TypeError: it has something else there.
    """
    choices = job.get("choices", {})
    if not isinstance(choices, dict) or not all(isinstance(each, str) for each in choices.values()):
        raise TypeError("choices aren't a mapping to text")
    return choices


def _elsewhere(sweep: str) -> list[tuple[str, dict[str, str]]]:
    """The directories of a sweep's runs that were made outside of it, from there, with choices."""
    try:
        jobs = json.loads(read_limited(Path(sweep, "sweep.json"), LARGEST_SWEEP))["jobs"]
        found = [(os.path.normpath(job["directory"]), read_choices(job)) for job in jobs]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # Its own runs are there all the same.
        return []
    return [
        (each, choices)
        for each, choices in found
        if (each.startswith(os.pardir) or os.path.isabs(each))
        and os.path.isfile(os.path.normpath(os.path.join(sweep, each, "run.json")))
    ]


def _order(entry: Entry) -> tuple[bool, float, list[str | int]]:
    # Jobs of a sweep that began in the same second stay in the order of their numbers.
    parts = [int(each) if each.isdecimal() else each for each in re.split(r"(\d+)", entry.name)]
    return entry.record is None, -(entry.started or 0.0), parts
