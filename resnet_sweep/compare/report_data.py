"""The content of the HTML report, as data that its page shows."""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.format import reproduce_command, shown
from resnet_sweep.compare.group import replicates
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.pictures import find_pictures
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.signature import INCIDENTAL

CURVES = ("train_acc", "val_acc", "train_loss", "val_loss")
# Curves are thinned out to about as many points as a page of 10 MB has room for, and as a chart can
# show of a run.
POINTS, MOST_POINTS_OF_RUN, FEWEST_POINTS_OF_RUN = 60_000, 400, 20
# Significant digits of curves, and of outcomes.
CURVE_DIGITS, OUTCOME_DIGITS = 4, 7
# Parts of a run of which the page has what all runs have in common only once.
SHARED = ("settings", "choices", "environment")


def report_data(
    title: str,
    runs: Sequence[LoadedRun | BrokenRun],
    references: Sequence[LoadedRun],
    studies: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the data of a page.

    Args:
        title: of the page.
        runs: of the report, broken ones among them.
        references: runs to compare them with, which aren't in the table.
        studies: the studies of which runs are trials, each with its `name`, `summary` and
            `figures`, safe to show.

    Returns:
        Values for JSON. Those from run directories are numbers, or text that is safe to show.
    """
    loaded = [run for run in runs if isinstance(run, LoadedRun)]
    groups = replicates(loaded)
    counted = {run for group in groups for run in group.counted}
    numbers = {run: number for number, group in enumerate(groups) for run in group.runs}
    points = max(FEWEST_POINTS_OF_RUN, min(MOST_POINTS_OF_RUN, POINTS // max(1, len(loaded))))
    longest = max((len(run.metrics.rows) for run in loaded), default=0)
    # All runs have the same step, so that replicates of different lengths share epochs.
    step = max(1, -(-longest // points))
    described = [
        _describe(run, step) | {"name": name, "group": numbers[run], "counted": run in counted}
        for run, name in zip(loaded, _names(loaded), strict=True)
    ]
    varied = diff_columns(loaded)
    parts = {name: _part(name, values, loaded) for name, values in varied.items()}
    # Some of them, such as the order of augmentation, aren't in the config of a run.
    for name, values in varied.items():
        for run_data, value in zip(described, values, strict=True):
            if value is not MISSING:
                run_data[parts[name]] |= _safe({name: value})
    common = _take_common(described)
    pictured, pictures = find_pictures(sorted(loaded, key=_best, reverse=True))
    return {
        "title": shown(title),
        "written": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "footer": f"Curves have {CURVE_DIGITS} significant digits"
        + (f" and one epoch in {step}." if step > 1 else " and all epochs."),
        "common": common,
        "varied": [{"name": shown(name), "part": part} for name, part in parts.items()],
        "incidental": sorted(INCIDENTAL),
        "runs": described
        + [
            _describe(run, step=1) | {"name": shown(run.name), "group": None, "reference": True}
            for run in references
        ],
        "damaged": [
            {"name": shown(run.name), "reason": shown(run.error)}
            for run in runs
            if isinstance(run, BrokenRun)
        ],
        "studies": list(studies),
        "pictures": pictures,
        "pictures_of": loaded.index(pictured) if pictured else None,
    }


def _describe(run: LoadedRun, step: int) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    notes = [*record.notes, *([f"Curves: {metrics.error}"] if metrics.error else [])]
    settings = run.config | {"precision": record.precision, "fingerprint": record.fingerprint}
    environment = {
        "host": record.host,
        "device": record.device,
        "threads": record.threads,
        "git_commit": record.git_commit,
        **{f"versions.{name}": version for name, version in record.versions.items()},
    }
    environment = {name: value for name, value in environment.items() if value is not None}
    return {
        "state": shown(run.state),
        "reason": shown(record.reason),
        "started": record.started and shown(record.started),
        "seconds": _rounded(record.seconds, OUTCOME_DIGITS),
        "parameters": record.parameters,
        "best": _outcome(record.best),
        "final": _outcome(record.final),
        "gap": _rounded(record.gap, OUTCOME_DIGITS),
        "notes": [shown(note) for note in notes],
        "command": reproduce_command(record),
        "settings": _safe(settings),
        "choices": _safe(record.choices),
        "environment": _safe(environment),
        "curves": _curves(metrics.rows, step),
    }


def _part(name: str, values: Sequence[Any], runs: Sequence[LoadedRun]) -> str:
    """Return whether a column has choices or settings, which may have the same names."""
    chosen = any(name in run.choices for run in runs)
    same = values == [run.choices.get(name, MISSING) for run in runs]
    return "choices" if chosen and same else "settings"


def _curves(rows: Sequence[Row], step: int) -> dict[str, list[float | None]]:
    """Return the metrics at multiples of `step` epochs, the first epoch and the last."""
    ends = rows[:1], rows[-1:]
    kept = [row for row in rows if row["epoch"] % step == 0 or [row] in ends]
    epochs: list[float | None] = [row["epoch"] for row in kept]
    return {"epoch": epochs} | {
        name: [_rounded(row.get(name), CURVE_DIGITS) for row in kept]
        for name in CURVES
        if any(name in row for row in kept)
    }


def _take_common(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Remove from the parts of runs, and return, what all runs have in common."""
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


def _safe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers as they are, and everything else as text that can be shown."""
    return {
        shown(name): value if isinstance(value, (int, float)) or value is None else shown(value)
        for name, value in values.items()
    }


def _outcome(values: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    if values is None:
        return None
    return {
        name: _rounded(value, OUTCOME_DIGITS)
        for name, value in values.items()
        if name in ("epoch", *CURVES)
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return value if value is None or isinstance(value, int) else float(f"{value:.{digits}g}")


def _best(run: LoadedRun) -> float:
    return -1.0 if run.best_accuracy is None else run.best_accuracy


def _names(runs: Sequence[LoadedRun]) -> list[str]:
    """Return the names of runs without the directory that all are in."""
    names = [run.name for run in runs]
    if len({os.path.isabs(name) for name in names}) == 1:
        top = os.path.commonpath(names) if len(names) > 1 else os.path.dirname(names[0])
        names = [os.path.relpath(name, top) if top else name for name in names]
    return list(map(shown, names))
