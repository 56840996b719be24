"""A sweep before it starts: its jobs, planned and compared with the runs that there are."""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig
from rich.progress import Progress

from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.check import SETTINGS, check_value
from resnet_sweep.config.command import relative
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    overrides_of,
    resolve,
    unresolved,
)
from resnet_sweep.config.errors import COMPOSITION_ERRORS, format_error
from resnet_sweep.config.plan import plan_run
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, InvalidJobs
from resnet_sweep.runs.record import PENDING, Record
from resnet_sweep.runs.run import unexpected_file
from resnet_sweep.runs.signature import differences, flatten, is_incidental, typed
from resnet_sweep.sweeps.grid import expand, pairs_of
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.manifest import JobEntry, Manifest
from resnet_sweep.sweeps.run_cache import RunCache

# Settings of a sweep as a whole.
SWEEP_SETTINGS = (
    "replicates",
    "objective",
    "reference",
    "dry_run",
    "retry_failed",
    "sweep_filter",
    "zip",
    "baseline",
    "reuse",
)
# Overrides that a job's own command leaves out. A preset for sweeps sets nothing else of jobs.
_OF_SWEEP = {"sweep", *SWEEP_SETTINGS} - {"objective", "reference"}
# How many wrong jobs, and how many differences, are listed.
MOST_LISTED = 20
# In a pipe, planning many jobs prints a line this often.
PLAIN_SECONDS = 10


@dataclass
class Plan:
    """The jobs of a sweep.

    Attributes:
        directory: of the sweep.
        cache: of runs, for estimates.
        manifest: what the directory said when the plan was made.
        objective: what the jobs are judged by.
        baseline: holds for the jobs that the others are compared with; None compares none.
        jobs: in order of their numbers.
        duplicates: the overrides of jobs that another one trains as well, with that one.
        filtered: how many combinations `sweep_filter` leaves out.
        pairs: lists of keys whose values are paired.
    """

    directory: Path
    cache: RunCache
    manifest: Manifest
    objective: Objective
    baseline: FilterExpression | None
    jobs: list[Job] = field(default_factory=list)
    duplicates: list[tuple[str, Job]] = field(default_factory=list)
    filtered: int = 0
    pairs: list[list[str]] = field(default_factory=list)

    def move(self, directory: Path) -> None:
        """Have another directory, in which there is nothing yet; the same one changes nothing."""
        if directory == self.directory:
            return
        for job in self.jobs:
            if not job.reused:
                job.move(directory / job.directory.relative_to(self.directory))
        self.directory = directory

    def to_train(self, retry_failed: bool = True) -> list[Job]:
        """Return the jobs that have something left to train, or are to start over."""
        return [
            job
            for job in self.jobs
            if job.starts_over
            or not (job.ended or job.reused or (not retry_failed and job.state == "failed"))
        ]


def plan_sweep(
    loader: ConfigLoader, master: DictConfig, directory: Path, new: bool, overrides: Sequence[str]
) -> Plan:
    """Plan every job of a sweep, and look at what there is of it.

    Args:
        loader: Hydra's.
        master: the config of the sweep as a whole.
        directory: of the sweep, absolute; it needn't exist.
        new: nothing can be in the directory yet.
        overrides: some with several values.

    Raises:
        ConfigError: jobs are wrong, all of which are named, or the directory is another sweep's;
            nothing was written.
    """
    manifest = Manifest() if new else Manifest.read(directory)
    planner = Planner(loader, master, directory, manifest, RunCache.here())
    with _PlanningBar() as bar:
        return planner.make(overrides, bar.advance)


class Planner:
    """Makes the plan of a sweep.

    Args:
        loader: Hydra's.
        master: the config of the sweep as a whole.
        directory: of the sweep, absolute; it needn't exist.
        manifest: what it says already.
        cache: runs that can be reused.

    Raises:
        ConfigError: a setting of the sweep is wrong.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        master: DictConfig,
        directory: Path,
        manifest: Manifest,
        cache: RunCache,
    ) -> None:
        self.loader, self.master = loader, master
        self.settings = sweep_settings(master)
        self.filter, baseline = (
            None if self.settings[name] is None else FilterExpression(self.settings[name])
            for name in ("sweep_filter", "baseline")
        )
        self.known = {job.signature: job for job in manifest.jobs}
        self.next_number = manifest.next_number
        self.plan = Plan(directory, cache, manifest, Objective.of(self.settings), baseline)
        self.plan.pairs = pairs_of(self.settings["zip"])
        self.smoke_tests = SmokeTests()
        self.jobs: dict[str, Job] = {}
        self.directories: set[Path] = set()
        self.wrong: dict[str, list[str]] = {}

    def make(self, overrides: Sequence[str], advance: Callable[[int, int], None]) -> Plan:
        """Plan every job.

        Args:
            overrides: those of the command line last.
            advance: is called with how many combinations are done, of how many.

        Raises:
            ConfigError: jobs are wrong, all of which are named; or the directory has runs that
                this sweep doesn't ask for.
        """
        combinations = expand(overrides, self.plan.pairs, self.loader)
        for done, combination in enumerate(combinations):
            advance(done, len(combinations))
            self._plan_combination(combination)
        advance(len(combinations), len(combinations))
        directory = self.plan.directory
        if self.wrong:
            # Another process may have written what is in the way meanwhile.
            check_unchanged(self.plan.manifest, directory)
            raise invalid_jobs(self.wrong, len(combinations), "jobs")
        if not self.jobs:
            raise ConfigError(
                f"sweep_filter={self.settings['sweep_filter']} leaves none of the "
                f"{self.plan.filtered} combinations: change it, or leave it out"
            )
        if self.plan.baseline is not None:
            known = [run_fields(job.run) for job in self.jobs.values()]
            check_fields(self.plan.baseline.names, known)
        self._refuse_other_runs()
        self.plan.jobs = sorted(self.jobs.values(), key=lambda job: job.number)
        return self.plan

    def _plan_combination(self, overrides: list[str]) -> None:
        try:
            with composed_job(self.loader, self.master, overrides) as config:
                typed_overrides = overrides_of(config.hydra)
                seed = resolve(config, "seed")
                check_value("seed", seed, SETTINGS["seed"])
                for replicate in range(self.settings["replicates"]):
                    if replicate:
                        config.seed = seed + replicate
                        config.hydra.overrides.task = with_seed(typed_overrides, config.seed)
                    self._plan_job(config)
        except COMPOSITION_ERRORS as error:
            job = " ".join(word for word in overrides if key_of(word) not in _OF_SWEEP)
            self.wrong.setdefault(format_error(error, overrides), []).append(job)

    def _plan_job(self, config: DictConfig) -> None:
        composed = ComposedConfig.of(config, config.hydra)
        for name, value in self.settings.items():
            if composed.settings[name] != value:
                raise ConfigError(
                    f"{name}={composed.settings[name]} in a job, {value} in others: it is of the "
                    "whole sweep, so give it one value"
                )
        if self.filter is not None and not self._passes_filter(composed):
            self.plan.filtered += 1
            return
        overrides = [word for word in composed.overrides if key_of(word) not in _OF_SWEEP]
        planned = plan_run(composed.settings, smoke_tests=self.smoke_tests)
        record = planned.record(replace(composed, overrides=overrides))
        if record.signature in self.jobs:
            self.plan.duplicates.append((" ".join(overrides), self.jobs[record.signature]))
            return
        self.jobs[record.signature] = self._place(record, config.hydra)

    def _place(self, record: Record, hydra: DictConfig) -> Job:
        """Give a job its number and its directory, and look at what there is of it."""
        known = self.known.get(record.signature)
        number = self.next_number if known is None else known.number
        if known is None:
            self.next_number += 1
        hydra.job.num, hydra.job.id = number, str(number)
        subdirectory = str(hydra.sweep.subdir)
        directory = Path(os.path.abspath(self.plan.directory / subdirectory))
        inside = directory.is_relative_to(self.plan.directory)
        if not inside or directory == self.plan.directory:
            raise ConfigError(
                f"hydra.sweep.subdir={subdirectory} isn't inside of the sweep's directory: choose "
                "another"
            )
        if directory in self.directories:
            raise ConfigError(
                f"hydra.sweep.subdir={subdirectory} would be the directory of two jobs: have it "
                "tell them apart, as ${hydra.job.num} does"
            )
        self.directories.add(directory)
        job = Job(number, record, directory, unresolved(hydra.job))
        found = job.look()
        if found and job.error:
            raise ConfigError(
                f"{directory} can't be resumed ({job.error}): restore it, or choose another "
                "hydra.sweep.dir"
            )
        if not found or job.state == PENDING:
            self._reuse(job)
        if not found and not job.reused and (there := unexpected_file(directory)) is not None:
            raise ConfigError(
                f"{directory} can't be the directory of a job, since {there} is there: choose "
                "another hydra.sweep.dir"
            )
        return job

    def _reuse(self, job: Job) -> None:
        if self.settings["reuse"] and not job.starts_over:
            found = self.plan.cache.complete(job.planned.signature)
            if found is not None:
                job.reuse(found)

    def _passes_filter(self, composed: ComposedConfig) -> bool:
        assert self.filter is not None
        record = Record("", config=composed.settings, choices=composed.choices)
        known = run_fields(LoadedRun(Path(), "", record=record))
        check_fields(self.filter.names, [known])
        return self.filter.matches(known)

    def _refuse_other_runs(self) -> None:
        """See that every run in the directory is one that is asked for.

        Raises:
            ConfigError: one isn't; with where it differs from the nearest job that is.
        """
        manifest, directory = self.plan.manifest, self.plan.directory
        others = [
            job
            for job in manifest.jobs
            if job.signature not in self.jobs and _is_started(job, directory)
        ]
        if not others:
            return
        settings = [dict(flatten(job.planned.config)) for job in self.jobs.values()]
        listed = [
            f"job {job.number} ({_describe(job, manifest.settings(job), settings)})"
            for job in others[:MOST_LISTED]
        ]
        more = f", and {len(others) - MOST_LISTED} more" if len(others) > MOST_LISTED else ""
        raise ConfigError(
            f"{relative(directory)} has runs that this command doesn't ask for: "
            f"{', '.join(listed)}{more}; ask for them as well, or choose another hydra.sweep.dir, "
            "where those that are finished are reused"
        )


def sweep_settings(master: DictConfig) -> dict[str, Any]:
    """Return the settings of a sweep as a whole.

    Raises:
        ConfigError: one of them is wrong.
    """
    settings = {name: resolve(master, name) for name in SWEEP_SETTINGS}
    for name, value in settings.items():
        check_value(name, value, SETTINGS[name])
    return settings


def check_unchanged(manifest: Manifest, directory: Path) -> None:
    """See that a sweep's directory still says what a plan was made from.

    Raises:
        ConfigError: it says something else.
    """
    if Manifest.read(directory).identities != manifest.identities:
        raise ConfigError(
            f"{directory} was changed by another process while the jobs were composed: give the "
            "command again"
        )


def invalid_jobs(wrong: Mapping[str, Sequence[str]], count: int, noun: str) -> ConfigError:
    """Return one error that names every wrong job.

    Args:
        wrong: by what is wrong, the overrides of the jobs.
        count: of all jobs.
        noun: what they are called.
    """
    (reason, jobs), *others = wrong.items()
    if not others and len(jobs) == count:
        # What is wrong with all of them is said once.
        return ConfigError(reason)
    lines = [
        f"{sum(map(len, wrong.values()))} of {count} {noun} are wrong, so nothing was started:"
    ]
    for reason, jobs in wrong.items():
        lines += [f"  {job}" for job in jobs[:MOST_LISTED]]
        if len(jobs) > MOST_LISTED:
            lines.append(f"  and {len(jobs) - MOST_LISTED} more")
        lines.append(f"    {reason}")
    return InvalidJobs("\n".join(lines))


def with_seed(overrides: Iterable[str], seed: int) -> list[str]:
    """Return overrides with another seed."""
    return [*(word for word in overrides if key_of(word) != "seed"), f"seed={seed}"]


def key_of(override: str) -> str:
    """Return what an override sets."""
    return override.partition("=")[0]


def _is_started(job: JobEntry, directory: Path) -> bool:
    """Return whether the sweep has a run of a job, and not only its plan."""
    if job.reused:
        return False
    if not (directory / job.directory / "run.json").exists():
        return False
    return load_run(directory / job.directory, "").state != PENDING


def _describe(
    job: JobEntry, settings: Mapping[str, Any], asked: Iterable[Mapping[str, Any]]
) -> str:
    """Return a job's overrides, and where it differs from the nearest that is asked for."""
    found = (
        [
            f"{name}: {typed(there)} there, {typed(here)} here"
            for name, (there, here) in differences(settings, other).items()
            if not is_incidental(name)
        ]
        for other in asked
    )
    nearest = min(found, key=len)
    return f"{' '.join(job.overrides)}; {', '.join(nearest[:5])}"


class _PlanningBar:
    """Shows how many jobs are planned; within a `with` block."""

    def __enter__(self) -> Self:
        self._printed = time.monotonic()
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("composing", total=None)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if not console.is_terminal and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            console.print(f"{done} of {total} jobs composed")
