"""What came of the jobs of a sweep, a line each: `results.csv`."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from resnet_sweep.compare.group import COMPLETE, Statistic, replicates
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.varying import ABSENT, variants
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.signature import typed
from resnet_sweep.sweeps.job import Job

NAME = "results.csv"


def write(directory: Path, jobs: Sequence[Job], objective: Objective) -> None:
    """Write `results.csv`, in order of the jobs' numbers.

    Accuracies are percent. Behind what varies stand, of a job and its replicates, the mean, the
    standard deviation (over n - 1) and the number of what they are judged by, as far as they are
    complete.

    Args:
        directory: of the sweep.
        jobs: of the sweep.
        objective: what they are judged by; if it isn't the best accuracy, it has a column.
    """
    entries = [job.entry for job in jobs]
    varying = variants(entries, seed=True)
    statistics: dict[object, Statistic | None] = {}
    for group in replicates(entries):
        values = (objective.value(entry) for entry in group.counted if entry.state in COMPLETE)
        statistics |= dict.fromkeys(group.entries, Statistic.of(values))
    judged = [] if objective.name == "val_acc" else [objective.name]
    header = ["number", "state", "directory", "best_val_acc", "final_val_acc", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *judged, *varying, "mean", "sd", "n"])
    for at, job in enumerate(jobs):
        record = job.record
        writer.writerow(
            [
                job.number,
                job.state,
                os.path.relpath(job.directory, directory),
                record.best and record.best["val_acc"],
                record.final and record.final["val_acc"],
                record.seconds or None,
                *(objective.value(job.entry) for _ in judged),
                *("" if each[at] is ABSENT else typed(each[at]) for each in varying.values()),
                *(statistics[job.entry] or (None, None, 0)),
            ]
        )
    write_atomically(directory / NAME, text.getvalue().encode())
