"""Finished runs that a study can begin with."""

import os
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import COMPLETE, replicates
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.signature import flatten
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.study.composer import Composer
from resnet_sweep.sweeps.study.space import Parameters


class Seed(NamedTuple):
    """A trial that needn't be trained.

    Attributes:
        parameters: of the trial.
        values: of its objectives.
        places: of its runs, one for each replicate; absolute.
    """

    parameters: Parameters
    values: list[float]
    places: list[str]


def finished_runs(history: History, composer: Composer, settings: Mapping[str, Any]) -> list[Seed]:
    """The trials whose runs are finished already, oldest first.

    Args:
        history: where they may be.
        composer: of the study.
        settings: that all its trials share.
    """
    seeds: dict[str, Seed] = {}
    for group in reversed(replicates(history.entries)):
        entry = next((each for each in group.counted if each.state in COMPLETE), None)
        values = None if entry is None else _searched(entry, composer)
        parameters = None if values is None else composer.space.parameters(values)
        if parameters is None:
            continue
        try:
            # Whatever else it may be, it must be just what the study would train.
            wanted = [each.planned.signature for each in composer.compose(parameters)]
        except RequestError:
            continue
        runs = [history.complete(signature) for signature in wanted]
        found = [
            [each.value(run) for each in composer.objectives] for run in runs if run is not None
        ]
        if len(found) == len(wanted) and not any(None in each for each in found):
            means = [fmean(each) for each in zip(*found, strict=True)]
            places = [os.path.abspath(run.directory) for run in runs]
            seeds.setdefault(wanted[0], Seed(parameters, means, places))
    return list(seeds.values())


def _searched(entry: Entry, composer: Composer) -> dict[str, Any] | None:
    """The values that a run has of the keys that are searched; None if it hasn't all."""
    settings = dict(flatten(entry.record.config))
    known = {**settings, **entry.choices}
    keys = {key: key.lstrip("+") for key in composer.space.distributions}
    if not all(name in known for name in keys.values()):
        return None
    return {key: known[name] for key, name in keys.items()}
