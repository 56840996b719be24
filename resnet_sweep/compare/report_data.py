"""The data that the HTML report shows."""

import base64
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from resnet_sweep.compare.collection import ComparedSweep
from resnet_sweep.compare.comparison import environment_of
from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.format import reproduce_command, round_digits, safe_text
from resnet_sweep.compare.group import group_replicates
from resnet_sweep.compare.lengths import LengthCurve, length_curves
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, metrics_of
from resnet_sweep.compare.ranking import rank_sweep
from resnet_sweep.compare.safe_read import read_limited
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.signature import INCIDENTAL

CURVES = ("train_acc", "val_acc", "train_loss", "val_loss")
# Number of points on a page, and the largest and the smallest number for a run. Epochs of longer
# runs are left out, so that a page has about 10 MB at most.
MAX_POINTS, MAX_POINTS_PER_RUN, MIN_POINTS_PER_RUN = 60_000, 400, 20
# Number of significant digits of curves, and of outcomes.
CURVE_DIGITS, OUTCOME_DIGITS = 4, 7
# Parts of a run. An entry that is the same in all runs is stored once for the page.
SHARED = ("settings", "choices", "environment")
# Folders of a run directory that contain figures.
FIGURE_FOLDERS = ("evaluation", "features")
MAX_FILE_BYTES = 16 * 2**20
# An embedded figure: pixels of its longer side, number of colors, and bytes.
MAX_SIDE, COLORS, MAX_EMBEDDED_BYTES = 1800, 256, 150_000


def report_data(
    title: str,
    runs: Sequence[LoadedRun | BrokenRun],
    references: Sequence[LoadedRun],
    studies: Sequence[Mapping[str, Any]] = (),
    sweeps: Sequence[ComparedSweep] = (),
) -> dict[str, Any]:
    """Return the data of the HTML page.

    Args:
        title: title of the page.
        runs: runs of the report, including broken runs.
        references: runs to compare them with, which aren't in the table.
        studies: studies whose trials are among the runs. Each study has a `name`, a `summary` and
            `figures`, which are safe to show.
        sweeps: sweeps with a baseline.

    Returns:
        Values for JSON. Values from run directories are numbers, or text that is safe to show.
    """
    loaded = [run for run in runs if isinstance(run, LoadedRun)]
    groups = group_replicates(loaded)
    counted = {run for group in groups for run in group.counted}
    numbers = {run: number for number, group in enumerate(groups) for run in group.runs}
    points = max(MIN_POINTS_PER_RUN, min(MAX_POINTS_PER_RUN, MAX_POINTS // max(1, len(loaded))))
    longest = max((len(run.metrics.rows) for run in loaded), default=0)
    # All runs have the same step, so that replicates of different lengths have common epochs.
    step = max(1, -(-longest // points))
    described = [
        _describe(run, step) | {"name": name, "group": numbers[run], "counted": run in counted}
        for run, name in zip(loaded, _names(loaded), strict=True)
    ]
    varied = diff_columns(loaded)
    parts = {name: _part(name, values, loaded) for name, values in varied.items()}
    # Some settings, for example the order of augmentation, aren't in the config of a run.
    for name, values in varied.items():
        for run_data, value in zip(described, values, strict=True):
            if value is not MISSING:
                run_data[parts[name]] |= _safe({name: value})
    common = {part: _take_common([run_data[part] for run_data in described]) for part in SHARED}
    best_first = sorted(loaded, key=lambda run: run.best_accuracy or -1.0, reverse=True)
    # The page shows the figures of the best run that has figures.
    with_figures = ((run, found) for run in best_first if (found := _figures(run)))
    best, figures = next(with_figures, (None, []))
    return {
        "title": safe_text(title),
        "written": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "footer": f"Curves are rounded to {CURVE_DIGITS} significant digits and show "
        + (f"one epoch in {step}." if step > 1 else "all epochs."),
        "common": common,
        "varied": [{"name": safe_text(name), "part": part} for name, part in parts.items()],
        "metrics": [
            {"column": metric.column, "percent": metric.percent} for metric in metrics_of(loaded)
        ],
        "incidental": sorted(INCIDENTAL),
        "runs": described
        + [
            _describe(run, step=1) | {"name": safe_text(run.name), "group": None, "reference": True}
            for run in references
        ],
        "damaged": [
            {"name": safe_text(run.name), "reason": safe_text(run.error)}
            for run in runs
            if isinstance(run, BrokenRun)
        ],
        "studies": list(studies),
        "lengths": [_points(curve) for curve in length_curves(groups)],
        "verdicts": [verdicts for sweep in sweeps if (verdicts := _verdicts(sweep))],
        "figures": figures,
        "figures_of": loaded.index(best) if best else None,
    }


def _verdicts(sweep: ComparedSweep) -> dict[str, Any] | None:
    """Return the table of a sweep's variants; None if its settings aren't valid."""
    try:
        ranking = rank_sweep(sweep.definition, sweep.runs)
    except ConfigError:
        return None
    return {"name": safe_text(sweep.name), "rows": ranking.rows(), "notes": ranking.notes()}


def _points(curve: LengthCurve) -> dict[str, Any]:
    """Return the points of a curve as columns; the spread of a single run is None."""
    accuracies = curve.points.values()
    return {
        "name": curve.name,
        "epochs": [*curve.points],
        "mean": [round_digits(accuracy.mean, OUTCOME_DIGITS) for accuracy in accuracies],
        "sd": [round_digits(accuracy.sd, OUTCOME_DIGITS) for accuracy in accuracies],
        "n": [accuracy.n for accuracy in accuracies],
    }


def _describe(run: LoadedRun, step: int) -> dict[str, Any]:
    record, metrics = run.record, run.metrics
    notes = [*record.notes, *([f"Curves: {metrics.error}"] if metrics.error else [])]
    settings = run.config | {"precision": record.precision} | run.inputs
    return {
        "state": safe_text(run.state),
        "reason": safe_text(record.reason),
        "started": record.started and safe_text(record.started),
        "seconds": round_digits(record.seconds, OUTCOME_DIGITS),
        "cpu_share": round_digits(record.cpu_share, OUTCOME_DIGITS),
        "memory": record.usage and record.usage["peak_memory_mib"],
        "gpu_memory": record.usage and record.usage["peak_gpu_memory_mib"],
        "reused_from": record.reused_from and safe_text(record.reused_from),
        "parameters": record.parameters,
        "best": _outcome(record.best),
        "final": _outcome(record.final),
        "gap": round_digits(record.gap, OUTCOME_DIGITS),
        "metrics": {
            column: round_digits(value, OUTCOME_DIGITS)
            for column, value in run.best_metrics.items()
        },
        "tags": safe_text(", ".join(run.tags)),
        "note": safe_text(run.note),
        "notes": [safe_text(note) for note in notes],
        "command": reproduce_command(record),
        "settings": _safe(settings),
        "choices": _safe(record.choices),
        "environment": _safe(environment_of(record)),
        "curves": _curves(metrics.rows, step, [metric.column for metric in metrics_of([run])]),
    }


def _part(name: str, values: Sequence[Any], runs: Sequence[LoadedRun]) -> str:
    """Return whether the values are "choices" or "settings", which may have the same names."""
    chosen = [run.choices.get(name, MISSING) for run in runs]
    return "choices" if values == chosen else "settings"


def _curves(
    rows: Sequence[Row], step: int, further: Sequence[str]
) -> dict[str, list[float | None]]:
    """Return the metrics of the first and the last epoch, and of the multiples of `step`.

    Args:
        rows: rows of `metrics.csv`.
        step: the distance of the epochs.
        further: columns of further metrics.
    """
    ends = rows[:1], rows[-1:]
    kept = [row for row in rows if row["epoch"] % step == 0 or [row] in ends]
    epochs: list[float | None] = [row["epoch"] for row in kept]
    return {"epoch": epochs} | {
        name: [round_digits(row.get(name), CURVE_DIGITS) for row in kept]
        for name in (*CURVES, *further)
        if any(name in row for row in kept)
    }


def _take_common(mappings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Remove the entries that all mappings have in common, and return them."""
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
    """Return numbers and None unchanged, and all other values as text that is safe to show."""
    return {
        safe_text(name): value
        if isinstance(value, (int, float)) or value is None
        else safe_text(value)
        for name, value in values.items()
    }


def _outcome(values: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    if values is None:
        return None
    return {
        name: round_digits(values[name], OUTCOME_DIGITS)
        for name in ("epoch", *CURVES)
        if name in values
    }


def _names(runs: Sequence[LoadedRun]) -> list[str]:
    """Return the names of runs, relative to the directory that contains all of them."""
    names = [run.name for run in runs]
    if len({os.path.isabs(name) for name in names}) == 1:
        top = os.path.commonpath(names) if len(names) > 1 else os.path.dirname(names[0])
        names = [os.path.relpath(name, top) if top else name for name in names]
    return list(map(safe_text, names))


def _figures(run: LoadedRun) -> list[dict[str, str]]:
    """Return the `title` and the `data`, a URI, of each figure in a run directory."""
    folders = [run.directory / name for name in FIGURE_FOLDERS]
    paths = [
        path
        for folder in folders
        if not folder.is_symlink()
        for path in sorted(folder.glob("*.png"))
    ]
    return [
        {"title": safe_text(path.stem.replace("_", " ")), "data": uri}
        for path in paths
        if (uri := _embed(path)) is not None
    ]


def _embed(path: Path) -> str | None:
    """Return a figure as a data URI, encoded again from its pixels; None if it can't be read."""
    try:
        # Pillow warns of files that decompress to very many pixels. They are left out.
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            figure: Image.Image = Image.open(
                io.BytesIO(read_limited(path, MAX_FILE_BYTES)), formats=("PNG",)
            )
            # The figure is scaled down first, because four channels take more memory.
            figure.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
            figure = figure.convert("RGBA")
    # Pillow raises errors of many types for a damaged file.
    except Exception:
        return None
    white = Image.new("RGBA", figure.size, "white")
    figure = Image.alpha_composite(white, figure).convert("RGB")
    while True:
        content = io.BytesIO()
        figure.quantize(COLORS).save(content, format="PNG", optimize=True)
        if content.getbuffer().nbytes <= MAX_EMBEDDED_BYTES:
            break
        side = max(figure.size) * 3 // 4
        figure.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
