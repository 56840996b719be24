"""A sweep of benchmarks/answers.sh, and what the document says of it whatever it asks."""

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
REFERENCES = {entry.name: entry.metrics.rows for entry in LOGGED}


class Sweep:
    """A sweep of the script, with what is written of it.

    Args:
        top: the directory that the script was given.
        folder: of the sweep, in there.
        output: the document; pictures lie in a folder of its name.

    Attributes:
        entries: the runs that have an epoch, or ended without one, newest first, wherever they are.
        jobs: how many runs there are to be.
    """

    def __init__(self, top: Path, folder: str, output: Path) -> None:
        self.top, self.folder, self.output = top, folder, output
        jobs = Manifest.read(top / folder).jobs
        found = [
            (load_run(top / folder / job.directory, f"{folder}/{job.number}"), job.choices)
            for job in jobs
        ]
        self.jobs = len(jobs)
        self.entries = [
            run.with_choices(choices)
            for run, choices in found
            if isinstance(run, LoadedRun) and (run.record.final or run.record.has_ended)
        ]
        self.entries.sort(key=lambda entry: -(entry.started or 0.0))

    @property
    def part(self) -> str:
        """What the script was told to run: cpu or gpu."""
        return self.folder.partition("/")[0]

    def provenance(self) -> Iterator[str]:
        """The command, the machine, the seeds, and how many runs are at their end."""
        path = self.top / self.folder / "sweep.json"
        if path.exists():
            words = shlex.split(json.loads(path.read_text())["definition"]["command"])
            kept = [word for word in words if not word.startswith("hydra.sweep.dir=")]
            yield f"`{escape(shlex.join(kept))}`\n"
        machine = self.top / self.part / "machine.txt"
        told = machine.read_text().splitlines() if machine.exists() else []
        records = [entry.record for entry in self.entries]
        for kind in ("device", "precision", "git_commit"):
            values = {str(getattr(record, kind))[:10] for record in records}
            told += sorted(values - {"None"})
        seeds = sorted({str(record.seed) for record in records})
        done = sum(record.has_ended for record in records)
        missing = (
            "" if done == self.jobs else f" of {self.jobs}: **the others aren't at their end**"
        )
        settings = ", ".join(map(safe_text, told))
        yield f"{settings}; seeds: {', '.join(seeds)}; runs: {done}{missing}.\n"

    @property
    def epochs(self) -> int:
        """How far the run has come that has come farthest, the first epoch at least."""
        return max(1, *((entry.record.final or {}).get("epoch", 0) for entry in self.entries))

    def picture(self, groups: Mapping[str, Group]) -> Iterator[str]:
        """Curves of a run of each named group, over as many epochs of the log."""
        runs = [
            replace(min(group.counted, key=lambda entry: entry.record.seed), name=name)
            for name, group in groups.items()
        ]
        path = self.output.with_suffix("") / f"{self.folder.replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = [run for run in runs if not run.metrics.error]
        draw_curves([*sound, *logged_until(self.epochs)], path)
        yield f"![Curves of a seed of each]({path.parent.name}/{path.name})\n"


def logged_until(epoch: int) -> list[LoadedRun]:
    """The logged runs, as they stood at the end of an epoch."""
    found = []
    for entry in LOGGED:
        rows = [row for row in entry.metrics.rows if row["epoch"] <= epoch]
        record = replace(entry.record, best=best_row(rows), final=rows[-1])
        found.append(replace(entry, record=record))
        found[-1].metrics = Metrics(rows, None)
    return found
