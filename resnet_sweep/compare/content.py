"""What the report of some runs says, as data for its page."""

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import replicates
from resnet_sweep.compare.pictures import find_pictures
from resnet_sweep.compare.text import shown
from resnet_sweep.compare.varying import ABSENT, columns, value_of
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import INCIDENTAL, NEUTRAL, flatten

CURVES = ("train_acc", "val_acc", "train_loss", "val_loss")
# About as many points of curves as a page of 10 MB has room for, and as a run's chart can show.
MOST_POINTS, MOST_POINTS_OF_RUN, FEWEST_POINTS_OF_RUN = 60_000, 400, 20
# Digits of curves; outcomes are given with more.
CURVE_DIGITS, OUTCOME_DIGITS = 4, 7
# Settings of a run, and characters of the command that repeats it; ours have about 60 and 200.
MOST_SETTINGS, LONGEST_COMMAND = 400, 4000
# Parts of a run that are given once where all runs have the same.
SHARED = ("settings", "choices", "environment")


def build_content(
    title: str,
    entries: Sequence[Entry],
    references: Sequence[Entry],
    studies: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The data of a page.

    Args:
        title: of the page.
        entries: the runs that it is about, damaged ones among them.
        references: runs to compare them with, which aren't in the table.
        studies: that runs are trials of, each with its `name`, `summary` and `figures`, safe to
            show.

    Returns:
        What JSON can say, with values of run directories as numbers and as text that is safe to
        show, never longer than `shown` makes it.
    """
    sound = [entry for entry in entries if entry.record is not None]
    groups = replicates(sound)
    counted = {entry for group in groups for entry in group.counted}
    numbers = {entry: number for number, group in enumerate(groups) for entry in group.entries}
    points = max(FEWEST_POINTS_OF_RUN, min(MOST_POINTS_OF_RUN, MOST_POINTS // max(1, len(sound))))
    longest = max((len(entry.metrics.rows) for entry in sound), default=0)
    # The same for all, so that replicates of different lengths have epochs in common.
    step = max(1, -(-longest // points))
    names = _names(sound)
    runs = [
        _describe(entry, step)
        | {"name": name, "group": numbers[entry], "counted": entry in counted}
        for entry, name in zip(sound, names, strict=True)
    ]
    varied = columns(sound)
    parts = {name: _part(name, values, sound) for name, values in varied.items()}
    for name, values in varied.items():
        # One that came later than a run is at its neutral default there.
        for run, value in zip(runs, values, strict=True):
            if value is not ABSENT:
                run[parts[name]] |= _safe({name: value})
    common = _share(runs)
    pictured, pictures = find_pictures(sorted(sound, key=_best, reverse=True))
    return {
        "title": shown(title),
        "written": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "footer": f"Curves have {CURVE_DIGITS} significant digits"
        + (f" and one epoch in {step}." if step > 1 else " and all epochs."),
        "common": common,
        "varied": [{"name": shown(name), "part": part} for name, part in parts.items()],
        "neutral": NEUTRAL,
        "incidental": sorted(INCIDENTAL),
        "runs": runs
        + [
            _describe(entry, step=1) | {"name": shown(entry.name), "group": None, "reference": True}
            for entry in references
        ],
        "damaged": [
            {"name": shown(entry.name), "reason": shown(entry.damage)}
            for entry in entries
            if entry.record is None
        ],
        "studies": list(studies),
        "pictures": pictures,
        "pictures_of": sound.index(pictured) if pictured else None,
    }


def repeating_command(record: Record) -> str:
    """The command that trains a run once more, in a new directory."""
    words = [
        word for word in record.overrides if not word.startswith(("trainer.resume=", "sweep="))
    ]
    command = "python -m resnet_sweep " + shlex.join([*record.flags, *words])
    usable = len(command) <= LONGEST_COMMAND and command.isprintable()
    return command.rstrip() if usable else shown(command)


def _describe(entry: Entry, step: int) -> dict[str, Any]:
    record, metrics = entry.record, entry.metrics
    notes = [*record.notes, *([f"Curves: {metrics.damage}"] if metrics.damage else [])]
    settings = dict(flatten(record.config)) | {
        "precision": record.precision,
        "fingerprint": record.fingerprint,
    }
    environment = {
        "host": record.host,
        "device": record.device,
        "threads": record.threads,
        "git_commit": record.git_commit,
        **{f"versions.{name}": number for name, number in record.versions.items()},
    }
    environment = {name: value for name, value in environment.items() if value is not None}
    return {
        "state": shown(entry.state),
        "reason": shown(record.reason),
        "started": record.started and shown(record.started),
        "seconds": _rounded(record.seconds, OUTCOME_DIGITS),
        "parameters": record.parameters,
        "best": _figures(record.best),
        "final": _figures(record.final),
        "gap": _rounded(record.gap, OUTCOME_DIGITS),
        "notes": [shown(note) for note in notes[:20]],
        "command": repeating_command(record),
        "settings": _safe(settings),
        "choices": _safe(record.choices),
        "environment": _safe(environment),
        "curves": _curves(metrics.rows, step),
    }


def _part(name: str, values: Sequence[Any], entries: Sequence[Entry]) -> str:
    """Whether what tells runs apart is a choice or a setting, which may be called the same."""
    chosen = any(name in entry.choices for entry in entries)
    same = values == [value_of(entry.choices, name) for entry in entries]
    return "choices" if chosen and same else "settings"


def _curves(rows: Sequence[Row], step: int) -> dict[str, list[float | None]]:
    """The columns of the metrics, at multiples of `step` epochs, the first epoch and the last."""
    ends = rows[:1] + rows[-1:]
    kept = [row for row in rows if row["epoch"] % step == 0 or row in ends]
    # More there are only where epochs don't count up, and those needn't fill the page.
    kept = kept[: MOST_POINTS_OF_RUN + 2]
    return {"epoch": [row["epoch"] for row in kept]} | {
        name: [_rounded(row.get(name), CURVE_DIGITS) for row in kept]
        for name in CURVES
        if any(name in row for row in kept)
    }


def _share(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Take out of runs what is the same in all of them.

    Returns:
        That, by the names of SHARED.
    """
    common = {}
    for part in SHARED:
        first, *others = [run[part] for run in runs] or [{}]
        common[part] = {
            name: value
            for name, value in first.items()
            if all(name in other and other[name] == value for other in others)
        }
        for run in runs:
            run[part] = {n: value for n, value in run[part].items() if n not in common[part]}
    return common


def _safe(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as they are, and everything else as text that can be shown."""
    return {
        shown(name): value if isinstance(value, (int, float)) or value is None else shown(value)
        for name, value in list(values.items())[:MOST_SETTINGS]
    }


def _figures(values: dict[str, float] | None) -> dict[str, float | None] | None:
    return values and {
        name: _rounded(value, OUTCOME_DIGITS)
        for name, value in values.items()
        if name in ("epoch", *CURVES)
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{digits}g}")


def _best(entry: Entry) -> float:
    best = entry.record.best
    return -1.0 if best is None or best["val_acc"] is None else best["val_acc"]


def _names(entries: Sequence[Entry]) -> list[str]:
    """The names of runs, without the directory that all are in."""
    names = [entry.name for entry in entries]
    if len({os.path.isabs(name) for name in names}) == 1:
        top = os.path.commonpath(names) if len(names) > 1 else os.path.dirname(names[0])
        names = [os.path.relpath(name, top) if top else name for name in names]
    return list(map(shown, names))
