"""The seeds of a sweep with `replicates=auto`: which variants get more of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.group import COMPLETE, group_replicates
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.compare.replication import UNDECIDED, ReplicationRule
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import differences
from resnet_sweep.sweeps.job import Job

# Returns the job of a planned run, with its number, its directory and its state.
CreateJob = Callable[[Record, DictConfig], Job]


@dataclass(eq=False)
class Variant:
    """A variant of a sweep. Replicates are numbered from 0; replicate 0 has the first seed.

    Attributes:
        config: the composed config of its runs. They differ only in the seed.
        records: the records of its planned runs, by replicate, up to the largest number of seeds.
        jobs: its jobs by replicate. There are none for the seeds that aren't part of the sweep yet.
    """

    config: DictConfig
    records: dict[int, Record] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)

    @property
    def planned(self) -> LoadedRun:
        """One of its runs, as it was planned."""
        return LoadedRun(Path(), "", next(iter(self.records.values())))

    def has_ended(self, count: int) -> bool:
        """Return whether nothing is left to train for the first `count` seeds."""
        jobs = [self.jobs.get(replicate) for replicate in self.records if replicate < count]
        return all(job is not None and job.ended for job in jobs)

    def runs(self, count: int) -> Iterator[LoadedRun]:
        """Yield the runs that have ended, among the first `count` seeds."""
        for replicate, job in sorted(self.jobs.items()):
            if replicate < count and job.error is None and job.ended:
                yield job.run


class Look(NamedTuple):
    """What was decided on a variant when its first seeds were trained.

    Attributes:
        seeds: number of these seeds.
        verdict: as in `ReplicationRule.verdicts`.
        difference: the mean difference from the baseline; None if there is none.
        interval: the confidence interval of the difference at this look; None if there is none.
    """

    seeds: int
    verdict: str
    difference: float | None
    interval: tuple[float, float] | None

    @property
    def is_open(self) -> bool:
        """Whether the variant needs more seeds."""
        return self.verdict == UNDECIDED

    def format(self, objective: Objective) -> str:
        """Return the verdict, the difference and its interval as text."""
        if self.difference is None:
            return self.verdict
        return f"{self.verdict}, {objective.format_interval(self.difference, self.interval)}"


class Replication:
    """Adds jobs with more seeds to a sweep, for the variants whose verdict is open.

    All jobs are planned before the first one starts. Which of them become part of the sweep depends
    only on the runs that have ended. So a resumed sweep makes the same decisions as before.

    Args:
        rule: decides which verdicts are open.
        condition: selects the variant with which the others are compared.
        objective: the value that is compared.

    Attributes:
        variants: the variants by `LoadedRun.replicate_key` of their first runs, in the order of the
            sweep.
        seeds: the first seeds of the combinations; `check` requires that there is only one.
        looks: the last look at each variant, except the baseline and variants without a look.
    """

    def __init__(
        self, rule: ReplicationRule, condition: FilterExpression, objective: Objective
    ) -> None:
        self.rule, self.condition, self.objective = rule, condition, objective
        self.variants: dict[str, Variant] = {}
        self.seeds: set[int] = set()
        self.looks: dict[Variant, Look] = {}

    @property
    def first(self) -> int:
        """The number of seeds that every variant gets before the first look."""
        return self.rule.looks[0]

    @property
    def baseline(self) -> Variant:
        """The variant with which the others are compared."""
        return self._matching()[0]

    @property
    def others(self) -> list[Variant]:
        """The variants that are compared with the baseline."""
        baseline = self.baseline
        return [variant for variant in self.variants.values() if variant is not baseline]

    def check(self) -> None:
        """Raise ConfigError if the variants can't be compared with one baseline, seed by seed."""
        if len(self.seeds) > 1:
            listed = ", ".join(map(str, sorted(self.seeds)))
            raise ConfigError(
                "replicates=auto trains all variants with the same seeds, but this sweep sets "
                f"seed to {listed}: give it one value, or set replicates to a number"
            )
        for variant in self.variants.values():
            groups = group_replicates(
                LoadedRun(Path(), "", record) for record in variant.records.values()
            )
            if len(groups) > 1:
                one, other = (group.runs[0].settings for group in groups[:2])
                names = [name for name in differences(one, other) if name != "seed"]
                raise ConfigError(
                    "replicates=auto trains each variant with several seeds, but "
                    f"{safe_text(', '.join(names))} depends on the seed: give it one value (only "
                    "the path of init_from may contain the seed, as in init_from=weights/${seed})"
                )
        if any(len(variant.records) < self.rule.maximum for variant in self.variants.values()):
            raise ConfigError(
                f"replicates=auto trains each variant with up to {self.rule.maximum} seeds, but "
                "sweep_filter excludes some of them: leave seed out of sweep_filter, or set "
                "replicates to a number"
            )
        count = len(self._matching())
        if count != 1:
            raise ConfigError(
                f"baseline={safe_text(self.condition.text)} matches "
                f"{pluralize(count, 'variant')} of this sweep, but replicates=auto needs exactly "
                "one: change baseline, or set replicates to a number"
            )
        if len(self.variants) == 1:
            raise ConfigError(
                "replicates=auto compares variants with the baseline, but this sweep has only the "
                "baseline: add another variant, or set replicates to a number"
            )

    def variant_of(self, record: Record) -> Variant:
        """Return the variant of which a planned run is part."""
        return next(
            variant
            for variant in self.variants.values()
            if any(found.signature == record.signature for found in variant.records.values())
        )

    def add_jobs(self, create_job: CreateJob) -> list[Job]:
        """Look at the runs that have ended, and create and return the jobs for more seeds.

        A variant gets no more seeds while one of its jobs has failed or is interrupted. If this
        is a job of the baseline, no variant gets more.
        """
        added: list[Job] = []
        self.looks = {}
        baseline, remaining = self.baseline, self.others
        following = dict(zip(self.rule.looks, self.rule.looks[1:], strict=False))
        for count in self.rule.looks:
            ready = [variant for variant in remaining if variant.has_ended(count)]
            complete = any(run.state in COMPLETE for run in baseline.runs(count))
            if not (ready and complete and baseline.has_ended(count)):
                break
            remaining = self._look(count, ready)
            if not remaining or count not in following:
                break
            for variant in self.variants.values():
                if variant is baseline or variant in remaining:
                    added += self._create(variant, following[count], create_job)
        return added

    def possible(self) -> list[Record]:
        """Return the runs that aren't part of the sweep, but may become part of it."""
        remaining = [
            variant
            for variant in self.others
            if (look := self.looks.get(variant)) is None or look.is_open
        ]
        if remaining:
            remaining.insert(0, self.baseline)
        return [
            record
            for variant in remaining
            for replicate, record in variant.records.items()
            if replicate not in variant.jobs
        ]

    def _look(self, count: int, ready: list[Variant]) -> list[Variant]:
        """Decide on variants from their first `count` seeds; return the variants that stay open."""
        runs = {run: variant for variant in self.variants.values() for run in variant.runs(count)}
        rule = self.rule
        ranking = Ranking([*runs], self.condition, self.objective, rule)
        for group, difference, verdict in zip(
            ranking.groups, ranking.differences, ranking.verdicts, strict=True
        ):
            if (variant := runs[group.runs[0]]) in ready:
                mean = None if difference is None else difference.mean
                interval = None if difference is None else difference.interval(rule.error_rate)
                self.looks[variant] = Look(count, verdict, mean, interval)
        return [variant for variant in ready if self.looks[variant].is_open]

    def _create(self, variant: Variant, count: int, create_job: CreateJob) -> Iterator[Job]:
        for replicate, record in sorted(variant.records.items()):
            if replicate < count and replicate not in variant.jobs:
                job = variant.jobs[replicate] = create_job(record, variant.config)
                yield job

    def _matching(self) -> list[Variant]:
        return [
            variant
            for variant in self.variants.values()
            if self.condition.matches(run_fields(variant.planned))
        ]
