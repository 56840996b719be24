"""The content of the HTML report, as data that its page shows."""

import base64
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from resnet_sweep.compare.comparison import environment_of
from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.format import reproduce_command, rounded, shown
from resnet_sweep.compare.group import replicates
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.safe_read import read_limited
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
# Folders of a run directory that have figures.
FIGURE_FOLDERS = ("evaluation", "features")
LARGEST_FILE = 16 * 2**20
# Pixels of the longer side, colors, and bytes of an embedded figure.
LONGEST_SIDE, COLORS, LARGEST_EMBEDDED = 1800, 256, 150_000


def report_data(
    title: str,
    runs: Sequence[LoadedRun | BrokenRun],
    references: Sequence[LoadedRun],
    studies: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the data of a page.

    Args:
        title: the title of the page.
        runs: the runs of the report, broken ones among them.
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
    common = {part: _take_common([run_data[part] for run_data in described]) for part in SHARED}
    best_first = sorted(loaded, key=lambda run: run.best_accuracy or -1.0, reverse=True)
    # The figures are those of the best run that has any.
    pictured = ((run, found) for run in best_first if (found := _pictures(run)))
    best, pictures = next(pictured, (None, []))
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
        "pictures_of": loaded.index(best) if best else None,
    }


def _describe(run: LoadedRun, step: int) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    notes = [*record.notes, *([f"Curves: {metrics.error}"] if metrics.error else [])]
    settings = run.config | {"precision": record.precision, "fingerprint": record.fingerprint}
    return {
        "state": shown(run.state),
        "reason": shown(record.reason),
        "started": record.started and shown(record.started),
        "seconds": rounded(record.seconds, OUTCOME_DIGITS),
        "parameters": record.parameters,
        "best": _outcome(record.best),
        "final": _outcome(record.final),
        "gap": rounded(record.gap, OUTCOME_DIGITS),
        "notes": [shown(note) for note in notes],
        "command": reproduce_command(record),
        "settings": _safe(settings),
        "choices": _safe(record.choices),
        "environment": _safe(environment_of(record)),
        "curves": _curves(metrics.rows, step),
    }


def _part(name: str, values: Sequence[Any], runs: Sequence[LoadedRun]) -> str:
    """Return whether a column has choices or settings, which may have the same names."""
    chosen = [run.choices.get(name, MISSING) for run in runs]
    return "choices" if values == chosen else "settings"


def _curves(rows: Sequence[Row], step: int) -> dict[str, list[float | None]]:
    """Return the metrics at multiples of `step` epochs, the first epoch and the last."""
    ends = rows[:1], rows[-1:]
    kept = [row for row in rows if row["epoch"] % step == 0 or [row] in ends]
    epochs: list[float | None] = [row["epoch"] for row in kept]
    return {"epoch": epochs} | {
        name: [rounded(row.get(name), CURVE_DIGITS) for row in kept]
        for name in CURVES
        if any(name in row for row in kept)
    }


def _take_common(mappings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Remove from mappings, and return, what all of them have in common."""
    first, *others = mappings or [{}]
    common = {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }
    for mapping in mappings:
        for name in common:
            del mapping[name]
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
        name: rounded(values[name], OUTCOME_DIGITS) for name in ("epoch", *CURVES) if name in values
    }


def _names(runs: Sequence[LoadedRun]) -> list[str]:
    """Return the names of runs without the directory that all are in."""
    names = [run.name for run in runs]
    if len({os.path.isabs(name) for name in names}) == 1:
        top = os.path.commonpath(names) if len(names) > 1 else os.path.dirname(names[0])
        names = [os.path.relpath(name, top) if top else name for name in names]
    return list(map(shown, names))


def _pictures(run: LoadedRun) -> list[dict[str, str]]:
    """Return the `title` and `data`, a URI, of the figures in a run directory."""
    folders = [run.directory / name for name in FIGURE_FOLDERS]
    paths = [
        path
        for folder in folders
        if not folder.is_symlink()
        for path in sorted(folder.glob("*.png"))
    ]
    return [
        {"title": shown(path.stem.replace("_", " ")), "data": uri}
        for path in paths
        if (uri := _embed(path)) is not None
    ]


def _embed(path: Path) -> str | None:
    """Return a figure as a data URI, encoded anew from its pixels; None if it can't be read."""
    try:
        # Pillow warns of a file that decompresses to too many pixels, which is left out.
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            picture: Image.Image = Image.open(
                io.BytesIO(read_limited(path, LARGEST_FILE)), formats=("PNG",)
            )
            # It is made small before it gets four channels.
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            picture = picture.convert("RGBA")
    # Pillow raises errors of many types for a damaged file.
    except Exception:
        return None
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    while True:
        small = io.BytesIO()
        picture.quantize(COLORS).save(small, format="PNG", optimize=True)
        if small.tell() <= LARGEST_EMBEDDED:
            break
        side = max(picture.size) * 3 // 4
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
