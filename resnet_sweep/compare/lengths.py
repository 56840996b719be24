"""The accuracy of runs over their length, `trainer.epochs`."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from resnet_sweep.compare.diff_columns import row_at, variants
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.group import Group, Statistic, group_by
from resnet_sweep.compare.loaded_run import LoadedRun

LENGTH = "trainer.epochs"


class LengthCurve(NamedTuple):
    """The accuracy of runs that differ only in their lengths and their seeds.

    Attributes:
        name: the settings that distinguish the runs from those of the other curves, as overrides;
            empty if there is one curve.
        points: the best validation accuracy over the seeds, percent, by length in epochs; the
            shortest length comes first.
    """

    name: str
    points: dict[int, Statistic]


def length_curves(groups: Iterable[Group]) -> list[LengthCurve]:
    """Return a curve for all groups of replicates that differ only in their lengths.

    Groups without a complete run are left out, and so are curves with a single length.
    """
    accuracies = {
        group.runs[0]: accuracy
        for group in groups
        if group.complete and isinstance(group.runs[0].settings.get(LENGTH), int)
        if (accuracy := group.statistic(lambda run: run.best_accuracy)) is not None
    }
    families = [family for family in group_by(accuracies, _family_key) if len(family.runs) > 1]
    columns = variants([family.runs[0] for family in families])
    columns.pop(LENGTH, None)
    curves = []
    for index, family in enumerate(families):
        values = row_at(columns, index).items()
        name = " ".join(f"{safe_text(key)}={safe_text(value)}" for key, value in values)
        points = {run.settings[LENGTH]: accuracies[run] for run in family.runs}
        curves.append(LengthCurve(name, dict(sorted(points.items()))))
    return curves


def _family_key(run: LoadedRun) -> str:
    """Return a text that is equal for runs that differ only in their lengths and their seeds."""
    return json.dumps(run.settings | {"seed": None, LENGTH: None}, sort_keys=True)
