"""Sweeps and studies in Python, read from their directories."""

import os
from functools import cached_property
from pathlib import Path

from resnet_sweep.api.runs import Run, Runs, load_runs
from resnet_sweep.compare.collection import read_definition
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.html import html_lines
from resnet_sweep.compare.ranking import Ranking, rank_sweep
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import PENDING


class Sweep:
    """A sweep or a study, as its directory described it when it was loaded.

    Args:
        directory: the sweep directory.

    Attributes:
        directory: the sweep directory, as an absolute path.
        name: the directory as it was given.
        runs: the runs in the order of the jobs, including pending, failed and reused ones.
        baseline: the condition on the variant with which the others are compared; None without one.

    Raises:
        ConfigError: it isn't a sweep directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.name, self.directory = str(directory), Path(os.path.abspath(directory))
        directories, self._definition = read_definition(self.directory)
        self.baseline = self._definition.baseline
        numbers = {place: number for number, place in enumerate(directories)}
        found = load_runs(directory)
        in_order = sorted(
            found, key=lambda run: numbers.get(os.path.normpath(run.directory), len(numbers))
        )
        self.runs = Runs(in_order, found.broken)

    @cached_property
    def table(self) -> Ranking:
        """The variants, best first, with their differences from the baseline and the verdicts.

        Raises:
            ConfigError: the baseline is invalid, or the reference of the objective can't be read.
        """
        started = [run for run in self.runs if run.state != PENDING]
        return rank_sweep(self._definition, started)

    def best(self) -> Run:
        """Return the best run of the best variant, ranked by the objective of the sweep.

        Raises:
            ConfigError: no run is complete.
        """
        best = self.table.best_run
        if not isinstance(best, Run):
            raise ConfigError(
                f"no run in {safe_text(self.name)} is complete: resume the sweep with "
                "the same overrides and this directory"
            )
        return best

    def __repr__(self) -> str:
        return f"<Sweep {safe_text(self.name)}: {pluralize(len(self.runs), 'run')}>"

    def _repr_html_(self) -> str:
        title = f"{self.name}: {pluralize(len(self.runs), 'run')}"
        return html_lines([safe_text(title)]) + self.table._repr_html_()
