"""Optuna's plots of studies, and tables of their confirmations, as data for a report's page."""

import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from resnet_sweep.compare.format import FEW_DIGITS, safe_text
from resnet_sweep.compare.safe_read import read_limited
from resnet_sweep.studies import CONFIRMATION_CSV
from resnet_sweep.studies.storage import find_storage
from resnet_sweep.studies.trial_queue import STATES, count_states, latest_states

# More points make the page larger, and slower to open.
MAX_STUDIES, MAX_TRIALS, MAX_KEYS = 5, 2000, 12
MAX_CONFIRMATION_BYTES = 2**20
# Matches long numbers in the texts of a plot, for example in tooltips.
LONG_NUMBER = re.compile(r"\b\d+\.\d{5,}(e[-+]\d+)?\b")


def plot_studies(directories: Sequence[Path]) -> list[dict[str, Any]]:
    """Plot the studies with storages in the given sweep directories.

    Returns:
        A mapping for each study with a complete trial: `name`, `summary`, `figures` and
        `confirmation`. A figure has a `title`, and Plotly's `data` and `layout`. The confirmation
        is a table whose first row is the header; it has no rows if nothing was confirmed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies: list[dict[str, Any]] = []
    for directory in directories[:MAX_STUDIES]:
        if (storage := find_storage(directory)) is not None:
            confirmation = _confirmation(directory / CONFIRMATION_CSV)
            studies += (study | {"confirmation": confirmation} for study in _studies(storage))
    return studies[:MAX_STUDIES]


def _studies(storage: BaseStorage) -> Iterator[dict[str, Any]]:
    with warnings.catch_warnings(action="ignore"):
        for summary in storage.get_all_studies():
            study = optuna.load_study(study_name=summary.study_name, storage=storage)
            trials = study.get_trials(deepcopy=False)
            if not any(trial.state is TrialState.COMPLETE for trial in trials):
                continue
            names = list(study.metric_names or [])
            if len(trials) > MAX_TRIALS:
                study = optuna.create_study(directions=study.directions)
                study.add_trials(trials[-MAX_TRIALS:])
            yield {
                "name": safe_text(summary.study_name),
                "summary": count_states(STATES[trial.state] for trial in latest_states(trials)),
                "figures": list(_figures(study, names)),
            }


def _confirmation(path: Path) -> list[list[str]]:
    """Return the table in a `confirmation.csv`, with few digits; no rows if it can't be read."""
    try:
        text = read_limited(path, MAX_CONFIRMATION_BYTES).decode()
        rows = [_confirmation_row(row) for row in csv.DictReader(io.StringIO(text, newline=""))]
    # InvalidFileError is a ValueError.
    except (FileNotFoundError, ValueError, KeyError, csv.Error):
        return []
    return [["trial", "claimed", "confirmed", "difference", "verdict"], *rows] if rows else []


def _confirmation_row(row: Mapping[str, str]) -> list[str]:
    """Return the cells of a row; raise ValueError or KeyError if it lacks values."""
    if None in row.values():
        raise ValueError("the row is truncated")
    number = {
        name: safe_text(float(row[name]), FEW_DIGITS) if row[name] else ""
        for name in ("claimed", "confirmed", "sd", "difference", "low", "high")
    }
    confirmed = number["confirmed"] + (f" ± {number['sd']}" if number["sd"] else "")
    interval = f" [{number['low']}, {number['high']}]" if number["low"] else ""
    texts = (row["trial"], number["claimed"], confirmed, number["difference"] + interval)
    return [*map(safe_text, texts), safe_text(row["verdict"])]


def _figures(study: optuna.Study, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    trials = study.get_trials(deepcopy=False)
    keys = sorted({key for trial in trials for key in trial.params})[:MAX_KEYS]
    several = len(study.directions) > 1
    if several:
        yield from _figure("Pareto front", visualization.plot_pareto_front, study)
    for index, _ in enumerate(study.directions):
        name = names[index] if index < len(names) else f"objective {index}"
        target: dict[str, Any] = {"target_name": name}
        if several:
            target["target"] = lambda trial, index=index: trial.values[index]
        for title, plot, options in (
            ("Optimisation history", visualization.plot_optimization_history, {}),
            ("Parameter importances", visualization.plot_param_importances, {}),
            ("Slices", visualization.plot_slice, {"params": keys}),
            ("Parallel coordinates", visualization.plot_parallel_coordinate, {"params": keys}),
        ):
            title = f"{title} of {name}" if several else title
            yield from _figure(title, plot, study, **options, **target)
    if not several:
        yield from _figure("Epochs of each trial", visualization.plot_intermediate_values, study)


def _figure(
    title: str, plot: Callable[..., Any], study: optuna.Study, **options: Any
) -> Iterator[dict[str, Any]]:
    try:
        figure = plot(study, **options).to_plotly_json()
    # A plot may raise any error if there are too few trials, or if a parameter doesn't vary.
    except Exception:
        return
    for name in ("template", "title"):
        # The page has its own template and title.
        figure["layout"].pop(name, None)
    yield {"title": title, "data": _safe(figure["data"]), "layout": _safe(figure["layout"])}


def _safe(value: Any) -> Any:
    """Return a value that JSON can represent, with text that is safe to show."""
    if isinstance(value, Mapping):
        if "bdata" in value:
            return {name: value[name] for name in ("dtype", "bdata", "shape") if name in value}
        return {safe_text(name): _safe(content) for name, content in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_safe(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    # The line breaks of the plot are kept.
    texts = LONG_NUMBER.sub(
        lambda number: safe_text(float(number[0]), FEW_DIGITS), str(value)
    ).split("<br>")
    parts = (safe_text(text).replace("<", "&lt;").replace(">", "&gt;") for text in texts)
    return "<br>".join(parts)
