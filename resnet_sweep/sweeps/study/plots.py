"""A study in Optuna's own plots, as data for the page of a report."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from resnet_sweep.compare.text import shown
from resnet_sweep.sweeps.study.storage import find_storage

# Points of a plot take room on the page, and time of whoever opens it.
MOST_STUDIES, MOST_TRIALS, MOST_KEYS = 5, 2000, 12


def plot_studies(directories: Sequence[Path]) -> list[dict[str, Any]]:
    """The studies whose storages are in some directories.

    Args:
        directories: of sweeps.

    Returns:
        Of each study its `name`, `summary` and `figures`, each with a `title`, `data` and `layout`
        as Plotly has them.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = []
    for directory in directories[:MOST_STUDIES]:
        if (storage := find_storage(directory)) is not None:
            found += _studies(storage)
    return found[:MOST_STUDIES]


def _studies(storage: BaseStorage) -> Iterator[dict[str, Any]]:
    with warnings.catch_warnings(action="ignore"):
        for each in storage.get_all_studies():
            study = optuna.load_study(study_name=each.study_name, storage=storage)
            trials = study.get_trials(deepcopy=False)
            if not any(trial.state is TrialState.COMPLETE for trial in trials):
                continue
            if len(trials) > MOST_TRIALS:
                study = _newest(study, trials[-MOST_TRIALS:])
            yield {
                "name": shown(each.study_name),
                "summary": _summary(trials),
                "figures": list(_figures(study)),
            }


def _newest(study: optuna.Study, trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(trials)
    return copy


def _summary(trials: Sequence[optuna.trial.FrozenTrial]) -> str:
    names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
    states = [names.get(trial.state.name, trial.state.name.lower()) for trial in trials]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(trials)} trials: {told}"


def _figures(study: optuna.Study) -> Iterator[dict[str, Any]]:
    names = list(study.metric_names or [])
    keys = sorted({key for trial in study.get_trials(deepcopy=False) for key in trial.params})
    keys = keys[:MOST_KEYS]
    several = len(study.directions) > 1
    if several:
        yield from _figure("Pareto front", lambda: visualization.plot_pareto_front(study))
    for at, _ in enumerate(study.directions):
        name = names[at] if at < len(names) else f"objective {at}"
        of = f" of {name}" if several else ""
        target: dict[str, Any] = {"target_name": name}
        if several:
            target["target"] = lambda trial, at=at: trial.values[at]
        yield from _figure(
            f"Optimisation history{of}",
            lambda target=target: visualization.plot_optimization_history(study, **target),
        )
        yield from _figure(
            f"Parameter importances{of}",
            lambda target=target: visualization.plot_param_importances(study, **target),
        )
        yield from _figure(
            f"Slices{of}",
            lambda target=target: visualization.plot_slice(study, params=keys, **target),
        )
        yield from _figure(
            f"Parallel coordinates{of}",
            lambda target=target: visualization.plot_parallel_coordinate(
                study, params=keys, **target
            ),
        )
    if not several:
        yield from _figure(
            "Epochs of each trial", lambda: visualization.plot_intermediate_values(study)
        )


def _figure(title: str, draw: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    try:
        figure = draw().to_plotly_json()
    # Some need more trials than there are, or parameters that vary, and say so in many ways.
    except Exception:
        return
    layout = {
        name: value
        for name, value in figure["layout"].items()
        # The page has its own.
        if name not in ("template", "title")
    }
    yield {"title": title, "data": _safe(figure["data"]), "layout": _safe(layout)}


def _safe(value: Any) -> Any:
    """The same with all texts fit to be shown, and what JSON can say only."""
    if isinstance(value, Mapping):
        if "bdata" in value:
            return {name: value[name] for name in ("dtype", "bdata", "shape") if name in value}
        return {shown(name): _safe(each) for name, each in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_safe(each) for each in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else None
    return _markup(str(value))


def _markup(text: str) -> str:
    """Text that is safe in a plot, whose own line breaks stay."""
    parts = (shown(part).replace("<", "&lt;").replace(">", "&gt;") for part in text.split("<br>"))
    return "<br>".join(parts)
