"""The plan of a sweep: its jobs, compared with the runs that already exist."""

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
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import ERROR_RATE
from resnet_sweep.compare.replication import ReplicationRule
from resnet_sweep.config.build import Sources
from resnet_sweep.config.check import SETTINGS, check_replication, check_value
from resnet_sweep.config.command import relative_path
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    current_config,
    read_overrides,
    resolve,
    unresolved,
)
from resnet_sweep.config.epoch_keys import EpochKeys
from resnet_sweep.config.errors import COMPOSITION_ERRORS, format_error
from resnet_sweep.config.plan import plan_run
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, InvalidJobs
from resnet_sweep.runs.record import PENDING, Record
from resnet_sweep.runs.run import unexpected_file
from resnet_sweep.runs.signature import (
    changed_files,
    differences,
    format_files,
    format_setting,
    is_incidental,
)
from resnet_sweep.sweeps.epoch_tree import EpochTree, ended_runs, space_for_copies
from resnet_sweep.sweeps.grid import parse_zip
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.launchers import trains_elsewhere
from resnet_sweep.sweeps.manifest import JobEntry, Manifest
from resnet_sweep.sweeps.replication import Replication, Variant
from resnet_sweep.sweeps.run_cache import RunCache, sign_without_code

Item = TypeVar("Item")

# Settings that apply to a sweep as a whole.
WHOLE_SWEEP_SETTINGS = tuple(name for name in SETTINGS if name not in ("seed", "init_from"))
# Keys of overrides that a job doesn't get, since they only affect the sweep.
SWEEP_KEYS = {"sweep", *WHOLE_SWEEP_SETTINGS} - {"objective", "reference"}
# At most this many jobs are listed in an error message.
MAX_LISTED = 20
# Seconds between two progress lines if the output isn't a terminal.
PLAIN_SECONDS = 10


class SweepPlan:
    """The jobs of a sweep, planned and compared with existing runs.

    Args:
        loader: the loader of configs that Hydra passes to the sweeper.
        master: the config of the whole sweep.
        directory: the sweep directory, as an absolute path. It may not exist yet.
        combinations: the overrides of each combination of values; see `expand`.
        level: with `replicates=auto`, the probability of a wrong verdict on a variant.

    Attributes:
        manifest: the content of `sweep.json` when the plan was made.
        cache: earlier runs, for reuse and for estimates of the time.
        objective: the value by which the jobs are ranked.
        baseline: a condition. The other jobs are compared with the jobs that match it. With None,
            nothing is compared.
        pairs: lists of keys whose values are paired.
        duplicates: for each skipped job, its overrides and the job that trains the same run.
        repeated: overrides that list a value twice.
        filtered: number of jobs that `sweep_filter` excludes.
        replication: adds jobs with more seeds; None without `replicates=auto`.
        elsewhere: whether other machines may train the jobs.

    Raises:
        ConfigError: some jobs are invalid, or the directory belongs to another sweep; nothing was
            written.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        master: DictConfig,
        directory: Path,
        combinations: Sequence[list[str]],
        level: float = ERROR_RATE,
    ) -> None:
        self.directory = directory
        self.settings = sweep_settings(master)
        check_replication(self.settings)
        self.filter, self.baseline = (
            None if self.settings[name] is None else FilterExpression(self.settings[name])
            for name in ("sweep_filter", "baseline")
        )
        self.objective = Objective.from_config(
            self.settings | {name: resolve(master, name) for name in ("metric", "trainer")}
        )
        self.pairs = parse_zip(self.settings["zip"])
        self.elsewhere = trains_elsewhere(master)
        self.replication = self._replication(level)
        self.manifest = Manifest.read(directory)
        if "study" in (self.manifest.definition.model_extra or {}):
            raise ConfigError(
                f"{relative_path(directory)} contains a study: resume it with "
                "hydra/sweeper=optuna, or choose another hydra.sweep.dir"
            )
        self.cache = RunCache.default(directory)
        self.duplicates: list[tuple[list[str], Job]] = []
        self.repeated: list[str] = []
        self.filtered = 0
        self._entries = {job.signature: job for job in self.manifest.jobs}
        self._known = {job.signature: job.number for job in self.manifest.jobs}
        self._next_number = 1 + max(self._known.values(), default=-1)
        self._epoch_keys: dict[str, EpochKeys] = {}
        self._smoke_tests = SmokeTests()
        self._sources: Sources = {}
        self._planned: dict[str, Job] = {}
        self._directories: set[Path] = set()
        wrong: dict[str, list[str]] = {}
        for combination in track_jobs(combinations, "composed"):
            try:
                self._plan_combination(loader, master, combination)
            except COMPOSITION_ERRORS as error:
                wrong.setdefault(format_error(error, combination), []).append(" ".join(combination))
        if wrong:
            # The cause may be a file that another process has written in the meantime.
            self.check_unchanged()
            raise invalid_jobs(wrong, len(combinations), "jobs")
        if not self._planned:
            raise ConfigError(
                f"sweep_filter={self.settings['sweep_filter']} excludes all "
                f"{pluralize(self.filtered, 'job')}: change it, or leave it out"
            )
        if self.baseline is not None:
            check_fields(
                self.baseline.names, [run_fields(job.run) for job in self._planned.values()]
            )
        if self.replication is not None:
            self.replication.check()
            self.add_replicates()
        self._refuse_other_runs()

    def to_train(self, retry_failed: bool = True) -> list[Job]:
        """Return the jobs that haven't ended (failed ones if asked), and those to start over."""
        return [
            job
            for job in self.jobs
            if job.from_scratch or not (job.ended or (not retry_failed and job.state == "failed"))
        ]

    def epoch_tree(self, jobs: Sequence[Job]) -> EpochTree:
        """Return the epochs that jobs share with each other and with runs that have ended."""
        excluded = [job.directory for job in jobs]
        runs = [job.run for job in self.jobs if job.error is None]
        if self.settings["reuse"]:
            runs = [*self.cache.runs, *runs]
        ended = ended_runs(runs, excluded) if self._epoch_keys else {}
        space = space_for_copies(self.directory)
        return EpochTree(jobs, self.jobs, self._epoch_keys, ended, space)

    @property
    def jobs(self) -> list[Job]:
        """The jobs in the order of their numbers."""
        return sorted(self._planned.values(), key=lambda job: job.number)

    def add_replicates(self) -> list[Job]:
        """With `replicates=auto`, add jobs with more seeds; see `Replication.add_jobs`."""
        return [] if self.replication is None else self.replication.add_jobs(self._add_replicate)

    def check_unchanged(self) -> None:
        """Raise ConfigError if another process has changed `sweep.json` since the plan was made."""
        now = Manifest.read(self.directory)
        if {job.signature: job.number for job in now.jobs} != self._known:
            raise ConfigError(
                f"{self.directory} was changed by another process while the jobs were composed: "
                "repeat the command"
            )

    def _plan_combination(
        self, loader: ConfigLoader, master: DictConfig, overrides: list[str]
    ) -> None:
        with composed_job(loader, master, overrides) as config:
            typed_overrides = read_overrides(config.hydra)
            seed = resolve(config, "seed")
            check_value("seed", seed, SETTINGS["seed"])
            if (auto := self.replication) is not None:
                auto.seeds.add(seed)
            variant: Variant | None = None
            for replicate in range(auto.rule.maximum if auto else self.settings["replicates"]):
                if replicate:
                    config.seed = seed + replicate
                    config.hydra.overrides.task = with_seed(typed_overrides, config.seed)
                variant = self._plan_job(config, replicate, variant)

    def _plan_job(
        self, config: DictConfig, replicate: int, variant: Variant | None
    ) -> Variant | None:
        """Plan the job of a replicate.

        Args:
            config: the composed config.
            replicate: number of the replicate.
            variant: the variant of the earlier replicates of the same combination; None if there
                are none, or without `replicates=auto`.

        Returns:
            The variant, with this replicate.
        """
        auto = self.replication
        composed = ComposedConfig.of(config, config.hydra)
        for name, value in self.settings.items():
            if composed.settings[name] != value:
                raise ConfigError(
                    f"{name}={safe_text(composed.settings[name])} in one job and "
                    f"{safe_text(value)} in others, but {name} applies to the whole sweep: give it "
                    "one value"
                )
        if self.filter is not None:
            record = Record("", config=composed.settings, choices=composed.choices)
            fields = run_fields(LoadedRun(self.directory, "", record))
            check_fields(self.filter.names, [fields])
            if not self.filter.matches(fields):
                # With `replicates=auto`, the other seeds aren't jobs yet.
                self.filtered += auto is None or replicate < auto.first
                return variant
        overrides = [text for text in composed.overrides if override_key(text) not in SWEEP_KEYS]
        planned = plan_run(
            composed.settings,
            smoke_tests=self._smoke_tests,
            directory=self.directory,
            sources=self._sources,
            elsewhere=self.elsewhere,
        )
        record = planned.record(replace(composed, overrides=overrides))
        if self.settings["share_epochs"]:
            self._epoch_keys[record.signature] = planned.epoch_keys()
        if record.signature in self._planned:
            self.duplicates.append((overrides, self._planned[record.signature]))
            if auto is not None:
                variant = auto.variant_of(record)
        elif auto is None:
            self._planned[record.signature] = self._create_job(record, config)
        else:
            if variant is None:
                key = LoadedRun(Path(), "", record).replicate_key
                variant = auto.variants.setdefault(key, Variant(config))
            variant.records.setdefault(replicate, record)
            # Runs of an earlier command stay part of the sweep. They may not be needed any more,
            # because a job that had failed was trained later.
            started = self._entries.get(record.signature)
            if replicate < auto.first or (started and self._is_started(started)):
                variant.jobs[replicate] = self._create_job(record, config)
                self._planned[record.signature] = variant.jobs[replicate]
        return variant

    def _add_replicate(self, record: Record, config: DictConfig) -> Job:
        """Return the job of a run that was planned earlier, and add it to the sweep."""
        with current_config(config):
            config.seed = record.seed
            job = self._planned[record.signature] = self._create_job(record, config)
        return job

    def _replication(self, level: float) -> Replication | None:
        if self.settings["replicates"] != "auto" or self.baseline is None:
            return None
        maximum, margin = self.settings["max_replicates"], self.settings["margin"]
        rule = ReplicationRule(maximum, margin, level=level)
        return Replication(rule, self.baseline, self.objective)

    def _create_job(self, record: Record, config: DictConfig) -> Job:
        """Return a job with its number, its directory and its state."""
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
                f"hydra.sweep.subdir={subdirectory} isn't inside the sweep directory: choose "
                "another one, such as ${hydra.job.num}"
            )
        if directory in self._directories:
            raise ConfigError(
                f"hydra.sweep.subdir={subdirectory} is the directory of several jobs: add "
                "${hydra.job.num} to it"
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
        job.from_scratch |= job.reused and not self.settings["reuse"]
        if job.state == PENDING and self.settings["reuse"] and not job.from_scratch:
            complete = self.cache.find_complete(record.signature)
            if complete is not None:
                job.reuse(complete)
            else:
                job.other_code = self.cache.find_with_other_code(record)
        if not found and (name := unexpected_file(directory)) is not None:
            raise ConfigError(
                f"{directory} can't be the directory of a job, because it contains {name}: choose "
                "another hydra.sweep.dir"
            )
        return job

    def _refuse_other_runs(self) -> None:
        """Raise ConfigError if the directory has runs that aren't jobs of this command."""
        others = [
            job
            for job in self.manifest.jobs
            if job.signature not in self._planned and self._is_started(job)
        ]
        if not others:
            return
        place = relative_path(self.directory)
        changed = [self._changed_files(job) for job in others]
        if all(changed):
            files = format_files([*dict.fromkeys(file for found in changed for file in found)])
            raise ConfigError(
                f"{place} has runs that were trained with other code ({files} has changed): choose "
                "another hydra.sweep.dir, or restore the code of these runs"
            )
        listed = [f"job {job.number} ({self._describe(job)})" for job in others[:MAX_LISTED]]
        more = f", and {len(others) - MAX_LISTED} more" if len(others) > MAX_LISTED else ""
        raise ConfigError(
            f"{place} has runs that aren't part of this command, "
            f"{', '.join(listed)}{more}: add them to the command, or choose another "
            "hydra.sweep.dir, in which finished runs are reused"
        )

    def _is_started(self, job: JobEntry) -> bool:
        """Return whether the run of a job has started."""
        directory = self.directory / job.directory
        return (directory / "run.json").exists() and load_run(directory, "").state != PENDING

    def _changed_files(self, job: JobEntry) -> list[str]:
        """Return the user's changed files if a job differs from a planned one only in these."""
        run = load_run(self.directory / job.directory, "")
        if isinstance(run, BrokenRun):
            return []
        key = sign_without_code(run.record)
        planned = (other.planned for other in self.jobs if sign_without_code(other.planned) == key)
        return next((changed_files(run.record.inputs, other.inputs) for other in planned), [])

    def _describe(self, job: JobEntry) -> str:
        """Return the overrides of a job, and its differences from the most similar planned job."""
        settings = self.manifest.definition.settings | job.settings
        run = load_run(self.directory / job.directory, "")
        inputs = None if isinstance(run, BrokenRun) else run.record.inputs
        found = (
            [
                f"{name}: {format_setting(old)} in that job, {format_setting(new)} in this command"
                for name, (old, new) in differences(settings, planned.run.config).items()
                if not is_incidental(name)
            ]
            + [
                f"{file} has changed"
                for file in changed_files(inputs or {}, planned.planned.inputs if inputs else {})
            ]
            for planned in self.jobs
        )
        return f"{' '.join(job.overrides)}; {'; '.join(min(found, key=len)[:5])}"


def sweep_settings(master: DictConfig) -> dict[str, Any]:
    """Return the settings of the sweep as a whole, after checking them."""
    settings = {name: resolve(master, name) for name in WHOLE_SWEEP_SETTINGS}
    for name, value in settings.items():
        check_value(name, value, SETTINGS[name])
    return settings


def invalid_jobs(wrong: Mapping[str, Sequence[str]], count: int, noun: str) -> ConfigError:
    """Return an error that lists the invalid jobs.

    Args:
        wrong: maps an error message to the overrides of the jobs with this error.
        count: number of all jobs.
        noun: the noun for the jobs in the message, in the plural.
    """
    (reason, jobs), *others = wrong.items()
    if not others and len(jobs) == count:
        # If all jobs have the same error, they aren't listed.
        return ConfigError(reason)
    invalid = sum(map(len, wrong.values()))
    verb = "is" if invalid == 1 else "are"
    lines = [f"{invalid} of {count} {noun} {verb} invalid, so nothing was started:"]
    for reason, jobs in wrong.items():
        lines += [f"  {job}" if job else "  (no overrides)" for job in jobs[:MAX_LISTED]]
        if len(jobs) > MAX_LISTED:
            lines.append(f"  and {len(jobs) - MAX_LISTED} more")
        lines.append(f"    {reason}")
    return InvalidJobs("\n".join(lines))


def with_seed(overrides: Iterable[str], seed: int) -> list[str]:
    """Return overrides with another seed."""
    return [*(text for text in overrides if override_key(text) != "seed"), f"seed={seed}"]


def override_key(override: str) -> str:
    """Return the key of an override."""
    return override.partition("=")[0]


def track_jobs(jobs: Sequence[Item], done: str) -> Iterator[Item]:
    """Yield jobs, and show the progress as a bar on a terminal, or else as occasional lines."""
    plain, printed = not console.is_terminal, time.monotonic()
    bar = track(jobs, f"jobs {done}", console=console, transient=True, disable=plain)
    for number, job in enumerate(bar):
        now = time.monotonic()
        if number == 1:
            # The first job takes longer, for example because it loads the data.
            start = now
        elif plain and number and now - printed > PLAIN_SECONDS:
            seconds_left = (now - start) / (number - 1) * (len(jobs) - number)
            if seconds_left > PLAIN_SECONDS:
                printed = now
                console.print(f"{number} of {len(jobs)} jobs {done}")
        yield job


def _sync_hydra_config(config: DictConfig) -> None:
    """Update the config that `${hydra:...}` reads."""
    HydraConfig.instance().set_config(config)
    # set_config has made the node read-only.
    OmegaConf.set_readonly(config.hydra, False)
