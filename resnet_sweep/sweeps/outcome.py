"""What came of a sweep, for people."""

from collections.abc import Mapping, Sequence

from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.compare.text import percent, shown
from resnet_sweep.composition.command import relative
from resnet_sweep.console import console
from resnet_sweep.runs.record import duration
from resnet_sweep.sweeps.job import BROKEN, WAITING, Job


def describe(job: Job) -> str:
    """What came of a job, in a line."""
    record = job.record
    told = f"job {job.number} {job.state}"
    if job.reason:
        told += f" ({shown(job.reason)})"
    if record.best is not None:
        final = record.final and record.final["val_acc"]
        told += f": best {percent(record.best['val_acc'])}, final {percent(final)}"
        told += f", {duration(record.seconds or 0)}"
    return told


def tell_outcome(
    jobs: Sequence[Job],
    words: Mapping[Job, str],
    baseline: Condition | None,
    objective: Objective,
) -> None:
    """Print the ranking of a sweep's variants, and the jobs that failed.

    Args:
        jobs: of the sweep.
        words: of each job, those that tell it apart.
        baseline: that holds for the runs which the others are compared with.
        objective: what they are judged by.
    """
    entries = [job.entry for job in jobs if job.state != WAITING]
    lines = []
    if any(entry.record and entry.record.best for entry in entries):
        ranking = Ranking(entries, baseline, objective)
        width = console.width if console.is_terminal else None
        lines += ["", *ranking.lines(width), *(f"note: {note}" for note in ranking.notes())]
        if ranking.command is not None:
            lines.append(f"The best run again:\n  {ranking.command}")
    broken = [job for job in jobs if job.state in BROKEN]
    if broken:
        states = " or ".join(sorted({job.state for job in broken}, reverse=True))
        lines.append(f"\n{len(broken)} of {len(jobs)} jobs {states}:")
    for job in broken:
        which = f" ({shown(words[job])})" if words[job] else ""
        lines.append(f"  job {job.number}{which} {job.state}: {shown(job.reason)}")
        lines.append(f"    see {relative(job.directory)}/train.log")
    if lines:
        console.print("\n".join(lines), markup=False)


def varying_words(jobs: Sequence[Job]) -> dict[Job, str]:
    """The words of each job that not all have, as one types them."""
    common = set.intersection(*(set(job.planned.overrides) for job in jobs)) if jobs else set()
    return {
        job: " ".join(word for word in job.planned.overrides if word not in common) for job in jobs
    }
