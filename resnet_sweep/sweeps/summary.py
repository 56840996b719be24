"""What is printed of a sweep: its plan before it starts, and its results at the end."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from resnet_sweep.compare.diff_columns import cells, variants
from resnet_sweep.compare.filter_expression import run_fields
from resnet_sweep.compare.format import format_table, percent, shown
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.config.command import relative_path
from resnet_sweep.console import console
from resnet_sweep.runs.record import PENDING, duration
from resnet_sweep.sweeps.job import BROKEN, Job
from resnet_sweep.sweeps.plan import SweepPlan

MAX_DUPLICATES = 5


def print_plan(plan: SweepPlan, retry_failed: bool = True) -> None:
    """Print a table of the jobs, and the summary of the plan."""
    varying = cells(variants([job.run for job in plan.jobs], seed=True))
    rows = [["job", "state", "best", *(column[0] for column in varying), "where"]]
    for index, job in enumerate(plan.jobs, start=1):
        values = [column[index] for column in varying]
        where = shown(job.run.name) if job.reused or job.state != PENDING else ""
        state = f"{job.state} (reused)" if job.reused else job.state
        best = percent(job.run.best_accuracy) if job.record.best else ""
        rows.append([str(job.number), state, best, *values, where])
    width = console.width if console.is_terminal else None
    lines = [*format_table(rows, frozenset({0, 2}), width), *summarize_plan(plan, retry_failed)]
    console.print("\n".join(lines), markup=False)


def describe(job: Job) -> str:
    """Return a one-line summary of a job."""
    run, text = job.run, f"job {job.number} {job.state}"
    if job.reason:
        text += f" ({shown(job.reason)})"
    if run.record.best is not None:
        text += f": best {percent(run.best_accuracy)}, final {percent(run.final_accuracy)}"
        text += f", {duration(run.record.seconds or 0)}"
    return text


def print_summary(plan: SweepPlan) -> None:
    """Print the ranking of a sweep's variants, and the jobs that failed."""
    jobs, overrides = plan.jobs, varying_overrides(plan.jobs)
    runs = [job.run for job in jobs if job.state != PENDING and job.error is None]
    lines = []
    if any(run.record.best for run in runs):
        ranking = Ranking(runs, plan.baseline, plan.objective)
        width = console.width if console.is_terminal else None
        lines += ["", *ranking.lines(width), *(f"note: {note}" for note in ranking.notes())]
        if ranking.command is not None:
            lines.append(f"Reproduce the best run:\n  {ranking.command}")
    broken = [job for job in jobs if job.state in BROKEN]
    if broken:
        states = " or ".join(sorted({job.state for job in broken}, reverse=True))
        lines.append(f"\n{len(broken)} of {len(jobs)} jobs {states}:")
    for job in broken:
        which = f" ({shown(overrides[job])})" if overrides[job] else ""
        lines.append(f"  job {job.number}{which} {job.state}: {shown(job.reason)}")
        lines.append(f"    see {relative_path(job.directory)}/train.log")
    if lines:
        console.print("\n".join(lines), markup=False)


def varying_overrides(jobs: Sequence[Job]) -> dict[Job, str]:
    """Return the overrides of each job that not all jobs have, as they are typed."""
    common = set.intersection(*(set(job.planned.overrides) for job in jobs)) if jobs else set()
    return {
        job: " ".join(word for word in job.planned.overrides if word not in common) for job in jobs
    }


def summarize_plan(plan: SweepPlan, retry_failed: bool = True) -> Iterator[str]:
    """Yield a few lines on a plan."""
    jobs = plan.jobs
    varying = variants([job.run for job in jobs], seed=True)
    vary = f", which vary in {', '.join(map(shown, varying))}" if varying else ""
    yield f"{_count(len(jobs), 'job')}{vary}"
    baseline = plan.baseline
    if baseline is not None and not any(baseline.matches(run_fields(job.run)) for job in jobs):
        yield f"  no job is the baseline ({shown(baseline.text)}), so nothing is compared"
    for keys in plan.pairs:
        yield f"  {' and '.join(map(shown, keys))} are paired"
    if plan.filtered:
        yield f"  {_count(plan.filtered, 'combination')} left out by sweep_filter"
    for overrides, job in plan.duplicates[:MAX_DUPLICATES]:
        which = ", the baseline" if baseline and baseline.matches(run_fields(job.run)) else ""
        yield (
            f"  {shown(overrides)} trains the same as job {job.number}{which}, so it is left out"
        )
    if len(plan.duplicates) > MAX_DUPLICATES:
        yield f"  and {len(plan.duplicates) - MAX_DUPLICATES} more that train the same as others"
    reused = Counter(os.path.dirname(job.run.name) for job in jobs if job.reused)
    for place, count in reused.items():
        yield f"  {_count(count, 'job')} reused from {shown(place)}, finished there already"
    states = Counter(job.state for job in jobs if not job.reused)
    for state, what in (
        ("finished", "finished already"),
        ("stopped_early", "stopped early already"),
        ("pruned", "pruned already"),
        ("diverged", "diverged already"),
        ("interrupted", "interrupted, to resume"),
        ("running", "started, to resume"),
        ("failed", "failed, to retry" if retry_failed else "failed, left as they are"),
    ):
        if states[state]:
            yield f"  {states[state]} {what}"
    for job in jobs:
        if job.held and (holder := job.record.heartbeat):
            yield (
                f"  job {job.number} is being trained by process {holder['process']} on "
                f"{shown(holder['host'])}"
            )
    to_train = plan.to_train(retry_failed)
    seconds = plan.cache.estimate(to_train)
    if not to_train:
        yield "  nothing to train"
    elif seconds is None:
        yield (
            f"  {_count(len(to_train), 'job')} to train (no earlier runs to estimate the time from)"
        )
    else:
        yield (
            f"  {_count(len(to_train), 'job')} to train, about {duration(seconds)} one after "
            "another, estimated from earlier runs"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
