"""What a sweep would do, before it does anything."""

import os
from collections import Counter
from collections.abc import Iterator

from resnet_sweep.compare.facts import facts
from resnet_sweep.compare.table import lay_out
from resnet_sweep.compare.text import percent, shown
from resnet_sweep.compare.varying import ABSENT, variants
from resnet_sweep.console import console
from resnet_sweep.runs.record import duration
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.plan import Plan

MOST_DUPLICATES = 5


def show(plan: Plan) -> None:
    """Print the jobs of a plan, and what there is of them."""
    console.print(tabulate(plan, console.width if console.is_terminal else None), markup=False)
    console.print(summarize(plan), markup=False)


def summarize(plan: Plan, skip_failed: bool = False) -> str:
    """The plan in a few lines.

    Args:
        plan: of the sweep.
        skip_failed: whether jobs that failed are left as they are.
    """
    return "\n".join(_lines(plan, skip_failed))


def tabulate(plan: Plan, width: int | None) -> str:
    """The jobs of a plan, a line each.

    Args:
        plan: of the sweep.
        width: of the terminal; None if there is none.
    """
    varying = variants([job.entry for job in plan.jobs], seed=True)
    rows = [["job", "state", "best", *map(shown, varying), "where"]]
    for at, job in enumerate(plan.jobs):
        values = ("" if each[at] is ABSENT else shown(each[at]) for each in varying.values())
        where = shown(_directory(job)) if job.reused or job.state != "waiting" else ""
        state = f"{job.state} (reused)" if job.reused else job.state
        best = percent(job.record.best["val_acc"]) if job.record.best else ""
        rows.append([str(job.number), state, best, *values, where])
    return "\n".join(lay_out(rows, frozenset({0, 2}), width))


def _lines(plan: Plan, skip_failed: bool) -> Iterator[str]:
    jobs = plan.jobs
    varying = variants([job.entry for job in jobs], seed=True)
    vary = f", which vary in {', '.join(map(shown, varying))}" if varying else ""
    yield f"{_count(len(jobs), 'job')}{vary}"
    if plan.baseline is not None and not any(plan.baseline.holds(facts(j.entry)) for j in jobs):
        yield f"  no job is the baseline ({shown(plan.baseline.text)}), so nothing is compared"
    for keys in plan.pairs:
        yield f"  {' and '.join(map(shown, keys))} are paired"
    if plan.left_out:
        yield f"  {_count(plan.left_out, 'combination')} left out by sweep_filter"
    for words, job in plan.duplicates[:MOST_DUPLICATES]:
        baseline = plan.baseline is not None and plan.baseline.holds(facts(job.entry))
        yield (
            f"  {shown(words)} trains the same as job {job.number}"
            f"{', the baseline' if baseline else ''}, so it is left out"
        )
    if len(plan.duplicates) > MOST_DUPLICATES:
        yield f"  and {len(plan.duplicates) - MOST_DUPLICATES} more that train the same as others"
    reused = Counter(os.path.dirname(_directory(job)) for job in jobs if job.reused)
    for place, count in reused.items():
        yield f"  {_count(count, 'job')} reused from {shown(place)}, finished there already"
    states = Counter(job.state for job in jobs if not job.reused)
    for state, what in (
        ("finished", "finished already"),
        ("stopped_early", "stopped early already"),
        ("pruned", "pruned already"),
        ("diverged", "diverged already"),
        ("interrupted", "interrupted, to go on"),
        ("running", "begun, to go on"),
        ("failed", "failed, to be left" if skip_failed else "failed, to run again"),
    ):
        if states[state]:
            yield f"  {states[state]} {what}"
    for job in jobs:
        if job.held:
            lease = job.record.lease
            yield (
                f"  job {job.number} is at work in process {lease['process']} on "
                f"{shown(lease['host'])}"
            )
    to_train = plan.to_train(skip_failed)
    times = [plan.history.seconds(job.planned, job.epochs_to_train) for job in to_train]
    if not to_train:
        yield "  nothing to train"
    elif None in times:
        yield f"  {len(to_train)} to train; no run like these is on record to tell the time"
    else:
        yield (
            f"  {len(to_train)} to train, about {duration(sum(times))} one after another, as runs "
            "on record took"
        )


def _directory(job: Job) -> str:
    relative = os.path.relpath(job.directory)
    return str(job.directory) if relative.startswith("..") else relative


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
