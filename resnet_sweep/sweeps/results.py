"""What came of the jobs of a sweep, a line each: `results.csv`."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from resnet_sweep.compare.group import COMPLETE, Statistic, replicates
from resnet_sweep.compare.varying import ABSENT, columns
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.signature import typed
from resnet_sweep.sweeps.job import Job

NAME = "results.csv"


def write(directory: Path, jobs: Sequence[Job]) -> None:
    """Write `results.csv`, in order of the jobs' numbers.

    Accuracies are percent. Behind what varies stand the mean, the standard deviation (over n - 1)
    and the number of the best accuracies of a job and its replicates, as far as they are complete.
    """
    entries = [job.entry for job in jobs]
    varying = columns(entries)
    statistics: dict[object, Statistic] = {}
    for group in replicates(entries):
        complete = [entry for entry in group.counted if entry.state in COMPLETE]
        bests = (entry.record.best and entry.record.best["val_acc"] for entry in complete)
        statistics |= dict.fromkeys(group.entries, Statistic.of(bests))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["number", "state", "directory", "best_val_acc", "final_val_acc", "seconds", *varying,
         "mean_best_val_acc", "sd_best_val_acc", "n"]
    )  # fmt: skip
    for at, job in enumerate(jobs):
        final = job.record.final and job.record.final["val_acc"]
        statistic = statistics[job.entry] or (None, None, 0)
        writer.writerow(
            [
                job.number,
                job.state,
                os.path.relpath(job.directory, directory),
                job.best,
                final,
                job.record.seconds or None,
                *("" if each[at] is ABSENT else typed(each[at]) for each in varying.values()),
                *statistic,
            ]
        )
    write_atomically(directory / NAME, text.getvalue().encode())
