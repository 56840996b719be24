"""A sweep of benchmarks/answers.sh, and the parts that all sections of the document share."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from resnet_sweep.compare.collection import logged_runs, read_run
from resnet_sweep.compare.diff_view import draw_curves
from resnet_sweep.compare.format import escape, safe_text
from resnet_sweep.compare.group import Group
from resnet_sweep.compare.loaded_run import LoadedRun, Metrics, load_run
from resnet_sweep.runs.metrics import best_row
from resnet_sweep.sweeps.manifest import Manifest

LOGGED = [read_run(name) for name in logged_runs()]
REFERENCES = {run.name: run.metrics.rows for run in LOGGED}


class ReportedSweep:
    """A sweep of the script, which a section of the document reports.

    Args:
        top: the directory that the script was given.
        folder: of the sweep in `top`, for example `gpu/readings`.
        output: the document. Its images are in a folder of the same name.

    Attributes:
        runs: all runs with at least one epoch, and those that ended without one, newest first.
        jobs: number of jobs in the sweep.
    """

    def __init__(self, top: Path, folder: str, output: Path) -> None:
        self.top, self.folder, self.output = top, folder, output
        jobs = Manifest.read(top / folder).jobs
        loaded = [load_run(top / folder / job.directory, f"{folder}/{job.number}") for job in jobs]
        self.jobs = len(jobs)
        self.runs = [
            run
            for run in loaded
            if isinstance(run, LoadedRun) and (run.record.final or run.record.has_ended)
        ]
        self.runs.sort(key=lambda run: -(run.started or 0.0))

    @property
    def part(self) -> str:
        """The argument of the script that runs this sweep: `cpu` or `gpu`."""
        return self.folder.partition("/")[0]

    def provenance(self) -> Iterator[str]:
        """Yield the command, and a line with the machine, the seeds and the number of runs."""
        path = self.top / self.folder / "sweep.json"
        if path.exists():
            command = shlex.split(json.loads(path.read_text())["definition"]["command"])
            kept = [word for word in command if not word.startswith("hydra.sweep.dir=")]
            yield f"`{escape(shlex.join(kept))}`\n"
        machine = self.top / self.part / "machine.txt"
        facts = machine.read_text().splitlines() if machine.exists() else []
        records = [run.record for run in self.runs]
        for field in ("device", "precision", "git_commit"):
            values = {str(getattr(record, field))[:10] for record in records}
            facts += sorted(values - {"None"})
        seeds = ", ".join(sorted({str(record.seed) for record in records}))
        ended = sum(record.has_ended for record in records)
        missing = "" if ended == self.jobs else f" of {self.jobs}: **the others haven't ended**"
        yield f"{', '.join(map(safe_text, facts))}; seeds: {seeds}; runs: {ended}{missing}.\n"

    @property
    def epochs(self) -> int:
        """The last epoch of any run; 1 if no run has an epoch."""
        return max(1, *((run.record.final or {}).get("epoch", 0) for run in self.runs))

    def plot_curves(self, groups: Mapping[str, Group]) -> Iterator[str]:
        """Draw the curves of one run of each named group, and yield the link to the image.

        The curves of the logged runs are drawn over the same number of epochs.
        """
        runs = [
            replace(min(group.counted, key=lambda run: run.record.seed), name=name)
            for name, group in groups.items()
        ]
        path = self.output.with_suffix("") / f"{self.folder.replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        valid = [run for run in runs if not run.metrics.error]
        draw_curves([*valid, *logged_until(self.epochs)], path)
        yield f"![Curves of one seed of each group]({path.parent.name}/{path.name})\n"


def logged_until(epoch: int) -> list[LoadedRun]:
    """Return the logged runs as they were at the end of an epoch."""
    runs = []
    for logged in LOGGED:
        rows = [row for row in logged.metrics.rows if row["epoch"] <= epoch]
        record = replace(logged.record, best=best_row(rows), final=rows[-1])
        run = replace(logged, record=record)
        run.metrics = Metrics(rows, None)
        runs.append(run)
    return runs
