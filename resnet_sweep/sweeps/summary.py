"""The texts that a sweep prints: its plan, its verdicts so far, and its results at the end."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from resnet_sweep.compare.diff_columns import cells, variants
from resnet_sweep.compare.filter_expression import run_fields
from resnet_sweep.compare.format import format_percent, format_table, pluralize, safe_text
from resnet_sweep.compare.ranking import rank
from resnet_sweep.config.command import relative_path
from resnet_sweep.console import console
from resnet_sweep.runs.record import PENDING, duration
from resnet_sweep.runs.signature import changed_files, format_files
from resnet_sweep.sweeps.epoch_tree import DISK_SHARE, EpochTree
from resnet_sweep.sweeps.job import BROKEN, Job
from resnet_sweep.sweeps.plan import SweepPlan
from resnet_sweep.sweeps.replication import Look, Replication, Variant

MAX_DUPLICATES = 5
# At most this many undecided variants of a look are named.
MAX_UNDECIDED = 5


def print_plan(plan: SweepPlan, retry_failed: bool = True) -> None:
    """Print a table of the jobs, and the summary of the plan."""
    columns = cells(variants([job.run for job in plan.jobs], seed=True))
    rows = [["job", "state", "best", *(column[0] for column in columns), "directory"]]
    for index, job in enumerate(plan.jobs, start=1):
        values = [column[index] for column in columns]
        directory = "" if job.state == PENDING else safe_text(_trained_in(job))
        state = f"{job.state} (reused)" if job.reused else job.state
        best = format_percent(job.run.best_accuracy) if job.record.best else ""
        rows.append([str(job.number), state, best, *values, directory])
    width = console.width if console.is_terminal else None
    lines = [*format_table(rows, frozenset({0, 2}), width), *summarize_plan(plan, retry_failed)]
    console.print("\n".join(lines), markup=False)


def _trained_in(job: Job) -> str:
    """Return the directory in which a job was trained, relative to the current folder."""
    return relative_path(Path(job.record.reused_from or job.directory))


def print_looks(plan: SweepPlan, before: Mapping[Variant, Look]) -> None:
    """Print the looks of `replicates=auto` that an earlier state of `Replication.looks` lacks."""
    if plan.replication is not None:
        changed = {
            variant: look
            for variant, look in plan.replication.looks.items()
            if variant not in before or before[variant].seeds != look.seeds
        }
        if lines := [*_describe_looks(plan, changed)]:
            console.print("\n".join(lines), markup=False)


def _describe_looks(plan: SweepPlan, looks: Mapping[Variant, Look]) -> Iterator[str]:
    """Yield a line for each decided variant, and one for all undecided variants of a look."""
    overrides = distinct_overrides(plan.jobs)
    undecided: dict[int, list[str]] = {}
    for variant, look in looks.items():
        words = overrides[variant.jobs[min(variant.jobs)]].split(" ")
        name = safe_text(" ".join(word for word in words if not word.startswith("seed=")))
        if look.is_open:
            undecided.setdefault(look.seeds, []).append(name)
        else:
            yield f"after {look.seeds} seeds: {name} is {look.format(plan.objective)}"
    for seeds, names in undecided.items():
        more = len(names) - MAX_UNDECIDED
        listed = [*names[:MAX_UNDECIDED], *([f"and {more} more"] if more > 0 else [])]
        yield f"after {seeds} seeds: undecided: {', '.join(listed)}"


def describe(job: Job) -> str:
    """Return a one-line summary of a job."""
    run, text = job.run, f"job {job.number} {job.state}"
    if job.reason:
        text += f" ({safe_text(job.reason)})"
    if run.record.best is not None:
        text += f": best {format_percent(run.best_accuracy)}"
        text += f", final {format_percent(run.final_accuracy)}"
        text += f", {duration(run.record.seconds or 0)}"
    return text


def print_summary(plan: SweepPlan) -> None:
    """Print the ranking of a sweep's variants, and the jobs that failed or diverged."""
    jobs, overrides = plan.jobs, distinct_overrides(plan.jobs)
    runs = [job.run for job in jobs if job.state != PENDING and job.error is None]
    lines = []
    if any(run.record.best for run in runs):
        rule = None if plan.replication is None else plan.replication.rule
        ranking = rank(runs, plan.baseline, plan.objective, rule)
        width = console.width if console.is_terminal else None
        lines += ["", *ranking.lines(width), *(f"note: {note}" for note in ranking.notes())]
        if ranking.command is not None:
            lines.append(f"Reproduce the best run:\n  {ranking.command}")
    broken = [job for job in jobs if job.state in BROKEN]
    if broken:
        states = " or ".join(sorted({job.state for job in broken}, reverse=True))
        lines.append(f"\n{len(broken)} of {pluralize(len(jobs), 'job')} {states}:")
    for job in broken:
        distinct = f" ({safe_text(overrides[job])})" if overrides[job] else ""
        lines.append(f"  job {job.number}{distinct} {job.state}: {safe_text(job.reason)}")
        lines.append(f"    see {relative_path(job.directory)}/train.log")
    if lines:
        console.print("\n".join(lines), markup=False)


def distinct_overrides(jobs: Sequence[Job]) -> dict[Job, str]:
    """Return the overrides of every job as text, without those that all jobs have."""
    common = set.intersection(*(set(job.planned.overrides) for job in jobs)) if jobs else set()
    return {
        job: " ".join(text for text in job.planned.overrides if text not in common) for job in jobs
    }


def summarize_plan(plan: SweepPlan, retry_failed: bool = True) -> Iterator[str]:
    """Yield a few lines that summarize a plan."""
    jobs = plan.jobs
    columns = variants([job.run for job in jobs], seed=True)
    varied = f", varying {', '.join(map(safe_text, columns))}" if columns else ""
    yield f"{pluralize(len(jobs), 'job')}{varied}"
    baseline = plan.baseline
    if baseline is not None and not any(baseline.matches(run_fields(job.run)) for job in jobs):
        yield f"  no job matches the baseline ({safe_text(baseline.text)}), so no job is compared"
    for keys in plan.pairs:
        yield f"  {' and '.join(map(safe_text, keys))} are paired"
    if plan.filtered:
        yield f"  {pluralize(plan.filtered, 'job')} excluded by sweep_filter"
    duplicates = [
        (overrides, job)
        for overrides, job in plan.duplicates
        if not plan.repeated or overrides != job.planned.overrides
    ]
    if repeated := len(plan.duplicates) - len(duplicates):
        listed = ", ".join(map(safe_text, plan.repeated))
        yield f"  {pluralize(repeated, 'job')} skipped, because a value is listed twice: {listed}"
    for overrides, job in duplicates[:MAX_DUPLICATES]:
        kind = " (the baseline)" if baseline and baseline.matches(run_fields(job.run)) else ""
        text = safe_text(" ".join(overrides))
        yield f"  {text} trains the same as job {job.number}{kind} and is skipped"
    if len(duplicates) > MAX_DUPLICATES:
        yield f"  and {pluralize(len(duplicates) - MAX_DUPLICATES, 'more duplicate')}"
    reused = Counter(
        os.path.dirname(_trained_in(job)) for job in jobs if job.reused and not job.from_scratch
    )
    for place, count in reused.items():
        yield f"  {pluralize(count, 'job')} already finished in {safe_text(place)}, reused"
    changed = Counter(
        (
            format_files(changed_files(job.other_code.record.inputs, job.planned.inputs)),
            os.path.dirname(job.other_code.name),
        )
        for job in jobs
        if job.other_code is not None and job.state == PENDING
    )
    for (files, place), count in changed.items():
        yield (
            f"  {pluralize(count, 'job')} finished in {safe_text(place)} with other code, not "
            f"reused: {safe_text(files)} changed"
        )
    states = Counter(job.state for job in jobs if not job.reused)
    for state, description in (
        ("finished", "already finished"),
        ("stopped_early", "already stopped early"),
        ("pruned", "already pruned"),
        ("diverged", "already diverged"),
        ("interrupted", "interrupted, to resume"),
        ("running", "started, to resume"),
        ("failed", "failed, to retry" if retry_failed else "failed, not retried"),
    ):
        if states[state]:
            yield f"  {states[state]} {description}"
    if plan.replication is not None:
        yield from (f"  {line}" for line in _describe_looks(plan, plan.replication.looks))
    for job in jobs:
        if job.held and (holder := job.record.heartbeat):
            yield (
                f"  job {job.number} is being trained by process {holder['process']} on "
                f"{safe_text(holder['host'])}"
            )
    to_train = plan.to_train(retry_failed)
    yield from _describe_shared_epochs(plan.epoch_tree(to_train))
    seconds = plan.cache.estimate(to_train)
    if not to_train:
        yield "  nothing to train"
    elif seconds is None:
        yield (
            f"  {pluralize(len(to_train), 'job')} to train (no earlier runs to estimate the time "
            "from)"
        )
    else:
        yield (
            f"  {pluralize(len(to_train), 'job')} to train, about {duration(seconds)} one after "
            "another, estimated from earlier runs"
        )
    if plan.elsewhere and any(
        job.planned.precision == "float32"
        and job.planned.config["trainer"].get("precision") == "auto"
        for job in to_train
    ):
        yield (
            "  precision: float32, chosen for this machine; if the jobs run on GPUs that are "
            "faster with bfloat16, set trainer.precision=bfloat16"
        )
    if plan.replication is not None:
        yield from _describe_largest_cost(plan, plan.replication, to_train)


def _describe_shared_epochs(tree: EpochTree) -> Iterator[str]:
    """Yield lines with the epochs that jobs share, and the space that the copies take."""
    if tree.starts:
        count = len(tree.starts)
        jobs = "1 job continues another" if count == 1 else f"{count:,} jobs continue others"
        yield (
            f"  {tree.requested:,.0f} epochs requested, {tree.to_train:,.0f} to train, because "
            f"{jobs}"
        )
    if tree.copies:
        yield (
            f"  {pluralize(tree.copies, 'checkpoint')} kept meanwhile, about "
            f"{tree.bytes / 1e6:,.1f} MB"
        )
    if tree.restricted:
        yield (
            f"  further epochs could be shared, but the checkpoints may take at most "
            f"{100 * DISK_SHARE:.0f}% of the free disk space"
        )


def _describe_largest_cost(
    plan: SweepPlan, replication: Replication, to_train: Sequence[Job]
) -> Iterator[str]:
    """Yield a line with the jobs and the time that the sweep takes if no verdict is decided."""
    further = replication.possible()
    if plan.settings["reuse"]:
        further = [run for run in further if plan.cache.find_complete(run.signature) is None]
    if not further:
        return
    total, maximum = len(to_train) + len(further), replication.rule.maximum
    seconds = plan.cache.estimate(to_train, further)
    time = "" if seconds is None else f", about {duration(seconds)}"
    yield (
        f"  at most {pluralize(total, 'job')} to train{time}, if all verdicts stay undecided up to "
        f"{maximum} seeds"
    )
