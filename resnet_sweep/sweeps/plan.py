"""A sweep before it starts: its jobs, planned and compared with the runs that there are."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.check import SETTINGS, check_value
from resnet_sweep.config.command import relative_path
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    read_overrides,
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
from resnet_sweep.runs.signature import differences, format_setting, is_incidental
from resnet_sweep.sweeps.grid import expand, parse_zip
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.manifest import JobEntry, Manifest
from resnet_sweep.sweeps.run_cache import RunCache

Item = TypeVar("Item")

# Settings of a sweep as a whole.
WHOLE_SWEEP_SETTINGS = tuple(name for name in SETTINGS if name != "seed")
# Overrides that the command of one run leaves out. A preset for sweeps sets nothing else of jobs.
SWEEP_KEYS = {"sweep", *WHOLE_SWEEP_SETTINGS} - {"objective", "reference"}
# How many wrong jobs, and how many differences, are listed.
MAX_LISTED = 20
# In a pipe, progress is printed this often.
PLAIN_SECONDS = 10


class SweepPlan:
    """The jobs of a sweep, planned and compared with the runs that there are.

    Args:
        loader: Hydra's.
        master: the config of the sweep as a whole.
        directory: the sweep's, absolute; it needn't exist.
        overrides: some with several values; those of the command line last.

    Attributes:
        manifest: what the directory said when the plan was made.
        cache: runs that can be reused, and that show how long runs take.
        objective: what the jobs are judged by.
        baseline: holds for the jobs that the others are compared with; None compares none.
        pairs: lists of keys whose values are paired.
        jobs: in order of their numbers.
        duplicates: the overrides of jobs that another one trains as well, with that one.
        filtered: how many combinations `sweep_filter` leaves out.

    Raises:
        ConfigError: jobs are wrong, all of which are named; or the directory is another sweep's;
            nothing was written.
    """

    def __init__(
        self, loader: ConfigLoader, master: DictConfig, directory: Path, overrides: Sequence[str]
    ) -> None:
        self.directory = directory
        self.settings = sweep_settings(master)
        self.filter, self.baseline = (
            None if self.settings[name] is None else FilterExpression(self.settings[name])
            for name in ("sweep_filter", "baseline")
        )
        self.objective = Objective.of(self.settings)
        self.pairs = parse_zip(self.settings["zip"])
        self.manifest = Manifest.read(directory)
        if "study" in (self.manifest.definition.model_extra or {}):
            raise ConfigError(
                f"{relative_path(directory)} is the directory of a study: resume that with "
                "hydra/sweeper=optuna, or choose another hydra.sweep.dir"
            )
        self.cache = RunCache.default()
        self.duplicates: list[tuple[str, Job]] = []
        self.filtered = 0
        self._known = {job.signature: job.number for job in self.manifest.jobs}
        self._next_number = 1 + max(self._known.values(), default=-1)
        self._smoke_tests = SmokeTests()
        self._planned: dict[str, Job] = {}
        self._directories: set[Path] = set()
        combinations = expand(overrides, self.pairs, loader)
        wrong: dict[str, list[str]] = {}
        for combination in track_jobs(combinations, "composed"):
            try:
                self._plan_combination(loader, master, combination)
            except COMPOSITION_ERRORS as error:
                job = " ".join(word for word in combination if override_key(word) not in SWEEP_KEYS)
                wrong.setdefault(format_error(error, combination), []).append(job)
        if wrong:
            # Another process may have written what is in the way meanwhile.
            self.check_unchanged()
            raise invalid_jobs(wrong, len(combinations), "jobs")
        self.jobs = sorted(self._planned.values(), key=lambda job: job.number)
        if not self.jobs:
            raise ConfigError(
                f"sweep_filter={self.settings['sweep_filter']} leaves none of the "
                f"{self.filtered} combinations: change it, or leave it out"
            )
        if self.baseline is not None:
            check_fields(self.baseline.names, [run_fields(job.run) for job in self.jobs])
        self._refuse_other_runs()

    def to_train(self, retry_failed: bool = True) -> list[Job]:
        """Return the jobs that have something left to train, or are to start over."""
        return [
            job
            for job in self.jobs
            if job.from_scratch
            or not (job.ended or job.reused or (not retry_failed and job.state == "failed"))
        ]

    def check_unchanged(self) -> None:
        """Refuse a directory that doesn't say any more what the plan was made from."""
        now = Manifest.read(self.directory)
        if {job.signature: job.number for job in now.jobs} != self._known:
            raise ConfigError(
                f"{self.directory} was changed by another process while the jobs were composed: "
                "give the command again"
            )

    def _plan_combination(
        self, loader: ConfigLoader, master: DictConfig, overrides: list[str]
    ) -> None:
        with composed_job(loader, master, overrides) as config:
            typed_overrides = read_overrides(config.hydra)
            seed = resolve(config, "seed")
            check_value("seed", seed, SETTINGS["seed"])
            for replicate in range(self.settings["replicates"]):
                if replicate:
                    config.seed = seed + replicate
                    config.hydra.overrides.task = with_seed(typed_overrides, config.seed)
                self._plan_job(config)

    def _plan_job(self, config: DictConfig) -> None:
        composed = ComposedConfig.of(config, config.hydra)
        for name, value in self.settings.items():
            if composed.settings[name] != value:
                raise ConfigError(
                    f"{name}={composed.settings[name]} in a job, {value} in others: it applies to "
                    "the whole sweep, so give it one value"
                )
        if self.filter is not None:
            record = Record("", config=composed.settings, choices=composed.choices)
            fields = run_fields(LoadedRun(Path(), "", record))
            check_fields(self.filter.names, [fields])
            if not self.filter.matches(fields):
                self.filtered += 1
                return
        overrides = [word for word in composed.overrides if override_key(word) not in SWEEP_KEYS]
        planned = plan_run(composed.settings, smoke_tests=self._smoke_tests)
        record = planned.record(replace(composed, overrides=overrides))
        if record.signature in self._planned:
            self.duplicates.append((" ".join(overrides), self._planned[record.signature]))
        else:
            self._planned[record.signature] = self._place(record, config)

    def _place(self, record: Record, config: DictConfig) -> Job:
        """Give a job its number and its directory, and look at what there is of it."""
        number = self._known.get(record.signature)
        if number is None:
            number = self._next_number
            self._next_number += 1
        hydra = config.hydra
        hydra.job.num, hydra.job.id, hydra.sweep.dir = number, str(number), str(self.directory)
        _sync_hydra_config(config)
        subdirectory = str(hydra.sweep.subdir)
        directory = Path(os.path.abspath(self.directory / subdirectory))
        inside = directory.is_relative_to(self.directory)
        if not inside or directory == self.directory:
            raise ConfigError(
                f"hydra.sweep.subdir={subdirectory} isn't inside the sweep's directory: choose "
                "another"
            )
        if directory in self._directories:
            raise ConfigError(
                f"hydra.sweep.subdir={subdirectory} would be the directory of two jobs: make it "
                "differ between jobs, as ${hydra.job.num} does"
            )
        self._directories.add(directory)
        hydra.runtime.output_dir, hydra.overrides.task = str(directory), record.overrides
        _sync_hydra_config(config)
        own = {part: unresolved(hydra[part]) for part in ("job", "overrides", "sweep", "runtime")}
        own["job"] |= {name: resolve(hydra.job, name) for name in ("env_set", "chdir")}
        own["sweep"]["subdir"] = subdirectory
        own["runtime"]["choices"] |= record.choices
        job = Job(number, record, directory, own)
        found = job.refresh()
        if found and job.error:
            raise ConfigError(
                f"{directory} can't be resumed ({job.error}): restore it, or choose another "
                "hydra.sweep.dir"
            )
        if job.state == PENDING and self.settings["reuse"] and not job.from_scratch:
            elsewhere = self.cache.find_complete(record.signature)
            if elsewhere is not None:
                job.reuse(elsewhere)
        if not found and not job.reused and (there := unexpected_file(directory)) is not None:
            raise ConfigError(
                f"{directory} can't be the directory of a job, since {there} is there: choose "
                "another hydra.sweep.dir"
            )
        return job

    def _refuse_other_runs(self) -> None:
        """Refuse a directory with runs that aren't asked for."""
        others = [
            job
            for job in self.manifest.jobs
            if job.signature not in self._planned and self._is_started(job)
        ]
        if not others:
            return
        listed = [f"job {job.number} ({self._describe(job)})" for job in others[:MAX_LISTED]]
        more = f", and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
        raise ConfigError(
            f"{relative_path(self.directory)} has runs that this command doesn't ask for: "
            f"{', '.join(listed)}{more}; ask for them as well, or choose another hydra.sweep.dir, "
            "where those that are finished are reused"
        )

    def _is_started(self, job: JobEntry) -> bool:
        """Return whether the sweep has a run of a job, and not only its plan."""
        directory = self.directory / job.directory
        if job.reused or not (directory / "run.json").exists():
            return False
        return load_run(directory, "").state != PENDING

    def _describe(self, job: JobEntry) -> str:
        """Return a job's overrides, and where it differs from the nearest that is asked for."""
        settings = self.manifest.definition.settings | job.settings
        found = (
            [
                f"{name}: {format_setting(there)} there, {format_setting(here)} here"
                for name, (there, here) in differences(settings, planned.run.config).items()
                if not is_incidental(name)
            ]
            for planned in self.jobs
        )
        return f"{' '.join(job.overrides)}; {', '.join(min(found, key=len)[:5])}"


def sweep_settings(master: DictConfig) -> dict[str, Any]:
    """Return the settings of a sweep as a whole, checked."""
    settings = {name: resolve(master, name) for name in WHOLE_SWEEP_SETTINGS}
    for name, value in settings.items():
        check_value(name, value, SETTINGS[name])
    return settings


def invalid_jobs(wrong: Mapping[str, Sequence[str]], count: int, noun: str) -> ConfigError:
    """Return one error that names every wrong job.

    Args:
        wrong: the overrides of the jobs, by what is wrong.
        count: how many jobs there are.
        noun: what they are called.
    """
    (reason, jobs), *others = wrong.items()
    if not others and len(jobs) == count:
        # A cause that all jobs share is printed once, without them.
        return ConfigError(reason)
    lines = [
        f"{sum(map(len, wrong.values()))} of {count} {noun} are wrong, so nothing was started:"
    ]
    for reason, jobs in wrong.items():
        lines += [f"  {job}" for job in jobs[:MAX_LISTED]]
        if len(jobs) > MAX_LISTED:
            lines.append(f"  and {len(jobs) - MAX_LISTED} more")
        lines.append(f"    {reason}")
    return InvalidJobs("\n".join(lines))


def with_seed(overrides: Iterable[str], seed: int) -> list[str]:
    """Return overrides with another seed."""
    return [*(word for word in overrides if override_key(word) != "seed"), f"seed={seed}"]


def override_key(override: str) -> str:
    """Return what an override sets."""
    return override.partition("=")[0]


def track_jobs(jobs: Sequence[Item], done: str) -> Iterator[Item]:
    """Yield jobs, and show how many are done: a bar on a terminal, a line at times in a pipe."""
    plain, printed = not console.is_terminal, time.monotonic()
    bar = track(jobs, f"jobs {done}", console=console, transient=True, disable=plain)
    for number, job in enumerate(bar):
        if plain and time.monotonic() - printed > PLAIN_SECONDS:
            printed = time.monotonic()
            console.print(f"{number} of {len(jobs)} jobs {done}")
        yield job


def _sync_hydra_config(config: DictConfig) -> None:
    """Update the copy of Hydra's settings that `${hydra:...}` reads."""
    HydraConfig.instance().set_config(config)
    # That has made them read-only.
    OmegaConf.set_readonly(config.hydra, False)
