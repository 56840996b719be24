"""A sweep before it begins: its jobs, composed, checked and compared with what there is."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.facts import check_known, facts
from resnet_sweep.compare.objective import Objective
from resnet_sweep.composition.check import SETTINGS, check_value
from resnet_sweep.composition.command import STARTED_IN, relative
from resnet_sweep.composition.complaint import sentence
from resnet_sweep.composition.gate import (
    choices_of,
    compose_job,
    flags_of,
    setting_of,
    settings_of,
    words_of,
)
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError, WrongJobs
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import foreign_file
from resnet_sweep.runs.signature import differences, flatten, is_incidental, typed
from resnet_sweep.sweeps.expansion import expand, pairs_of
from resnet_sweep.sweeps.frozen import freeze
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.job import WAITING, Job
from resnet_sweep.sweeps.ledger import Ledger, Line

# Settings of a sweep as a whole.
WHOLE = ("replicates", "objective", "reference", "sweep_mode", "sweep_filter", "zip", "baseline",
         "reuse")  # fmt: skip
# Words that a job's own command leaves out. A preset for sweeps sets nothing else that is of jobs.
_OF_SWEEP = {"sweep", *WHOLE} - {"objective", "reference"}
# How many wrong jobs, and how many differences, are told one by one.
MOST_TOLD = 20


@dataclass
class Plan:
    """The jobs of a sweep.

    Attributes:
        directory: of the sweep.
        history: what estimates are taken from.
        ledger: what the directory said when the plan was made.
        objective: what the jobs are judged by.
        baseline: that holds for those which the others are compared with; None compares none.
        jobs: in order of their numbers.
        duplicates: the words of jobs that another one trains as well, with that one.
        left_out: how many combinations `sweep_filter` leaves out.
        pairs: lists of keys whose values are paired.
    """

    directory: Path
    history: History
    ledger: Ledger
    objective: Objective
    baseline: Condition | None
    jobs: list[Job] = field(default_factory=list)
    duplicates: list[tuple[str, Job]] = field(default_factory=list)
    left_out: int = 0
    pairs: list[list[str]] = field(default_factory=list)

    def move(self, directory: Path) -> None:
        """Have another directory, in which there is nothing yet; the same one changes nothing."""
        if directory == self.directory:
            return
        for job in self.jobs:
            if not job.reused:
                job.move(directory / job.directory.relative_to(self.directory))
        self.directory = directory

    def to_train(self, skip_failed: bool = False) -> list[Job]:
        """The jobs that have something left to train, or are to start over."""
        return [
            job
            for job in self.jobs
            if job.starts_over
            or not (job.ended or job.reused or (skip_failed and job.state == "failed"))
        ]


class Planner:
    """Makes the plan of a sweep.

    Args:
        loader: composes.
        master: the config of the sweep as a whole.
        directory: of the sweep, absolute; it needn't exist.
        ledger: what it says already.
        history: the runs that are on record.

    Raises:
        RequestError: a setting of the sweep is wrong.
    """

    def __init__(
        self,
        loader: ConfigLoader,
        master: DictConfig,
        directory: Path,
        ledger: Ledger,
        history: History,
    ) -> None:
        self.loader, self.master = loader, master
        self.whole = {name: setting_of(master, name) for name in WHOLE}
        for name, value in self.whole.items():
            check_value(name, value, SETTINGS[name])
        self.filter, baseline = (
            None if self.whole[name] is None else Condition(self.whole[name])
            for name in ("sweep_filter", "baseline")
        )
        self.ledger = ledger
        self.known = {line.signature: line for line in ledger.lines}
        self.next_number = ledger.next_number
        objective = Objective.of(self.whole, STARTED_IN)
        self.plan = Plan(directory, history, ledger, objective, baseline)
        self.plan.pairs = pairs_of(self.whole["zip"])
        self.jobs: dict[str, Job] = {}
        self.places: dict[Path, Job] = {}
        self.wrong: dict[str, list[str]] = {}

    def make(self, words: Sequence[str], advance: Callable[[int, int], None]) -> Plan:
        """Compose every job, check it, and see what there is of it.

        Args:
            words: overrides, those of the command line last.
            advance: is told how many combinations are done, of how many.

        Raises:
            RequestError: jobs are wrong, all of which are named; or the directory has runs that
                this sweep doesn't ask for.
        """
        combinations = expand(words, self.plan.pairs, self.loader)
        outer = HydraConfig.instance().cfg
        try:
            for done, combination in enumerate(combinations):
                advance(done, len(combinations))
                self._compose(combination)
        finally:
            HydraConfig.instance().cfg = outer
        advance(len(combinations), len(combinations))
        if self.wrong:
            # What is in the way may be another process's, that came meanwhile.
            self.ledger.check_unchanged(Ledger.read(self.plan.directory), self.plan.directory)
            raise self._refusal(len(combinations))
        if not self.jobs:
            raise RequestError(
                f"sweep_filter={self.whole['sweep_filter']} leaves none of the "
                f"{self.plan.left_out} combinations: change it, or leave it out"
            )
        if self.plan.baseline is not None:
            known = [facts(job.entry) for job in self.jobs.values()]
            check_known(self.plan.baseline.names, known)
        self._refuse_orphans()
        self.plan.jobs = sorted(self.jobs.values(), key=lambda job: job.number)
        return self.plan

    def _compose(self, words: list[str]) -> None:
        told = " ".join(word for word in words if _key(word) not in _OF_SWEEP)
        try:
            config = compose_job(self.loader, self.master, words)
            seed = setting_of(config, "seed")
            check_value("seed", seed, SETTINGS["seed"])
            for replicate in range(self.whole["replicates"]):
                copy = deepcopy(config)
                HydraConfig.instance().set_config(copy)
                OmegaConf.set_readonly(copy.hydra, False)
                OmegaConf.set_struct(copy, False)
                if replicate:
                    copy.seed = seed + replicate
                    copy.hydra.overrides.task = _with_seed(words_of(copy.hydra), copy.seed)
                self._add(copy)
        except (RequestError, HydraException, OmegaConfBaseException) as error:
            self.wrong.setdefault(sentence(error), []).append(told)

    def _add(self, config: DictConfig) -> None:
        settings, hydra = settings_of(config), config.hydra
        for name in WHOLE:
            if settings[name] != self.whole[name]:
                raise RequestError(
                    f"{name}={settings[name]} in a job, {self.whole[name]} in others: it is of the "
                    "whole sweep, so give it one value"
                )
        choices = choices_of(hydra, settings)
        if self.filter is not None and not self._wanted(settings, choices):
            self.plan.left_out += 1
            return
        prepared = prepare(settings)
        words = [word for word in words_of(hydra) if _key(word) not in _OF_SWEEP]
        planned = Record(
            signature=prepared.signature,
            state=WAITING,
            config=settings,
            choices=choices,
            overrides=words,
            flags=flags_of(hydra),
            parameters=prepared.parameters,
            precision=prepared.precision,
            device=str(prepared.device),
            seed=settings["seed"],
            fingerprint=prepared.dataset.fingerprint,
        )
        if planned.signature in self.jobs:
            self.plan.duplicates.append((" ".join(words), self.jobs[planned.signature]))
            return
        for name, value in settings.items():
            config[name] = value
        hydra.overrides.task = words
        self.jobs[planned.signature] = self._place(planned, config)

    def _place(self, planned: Record, config: DictConfig) -> Job:
        """Give a job its number and its directory."""
        line = self.known.get(planned.signature)
        number = self.next_number if line is None else line.number
        if line is None:
            self.next_number += 1
        hydra = config.hydra
        hydra.job.num, hydra.job.id = number, str(number)
        subdirectory = hydra.sweep.subdir = str(hydra.sweep.subdir)
        # Written by the job itself, once its directory is found right.
        hydra.output_subdir = None
        # On screen is the sweep.
        hydra.job_logging.root.handlers = ["file"]
        own = Path(os.path.abspath(self.plan.directory / subdirectory))
        if not own.is_relative_to(self.plan.directory) or own == self.plan.directory:
            raise RequestError(
                f"hydra.sweep.subdir={subdirectory} isn't inside of the sweep's directory: choose "
                "another"
            )
        if own in self.places:
            raise RequestError(
                f"hydra.sweep.subdir={subdirectory} would be the directory of two jobs: have it "
                "tell them apart, as ${hydra.job.num} does"
            )
        job = Job(number, planned, own)
        if job.starts_over:
            # That is seen to once, before any job begins, and not whenever this one does: a
            # launcher may have it begin again on another machine, where it is to go on.
            config.trainer.resume = True
        job.word = freeze(config)
        self.places[own] = job
        if not job.look():
            self._reuse(job, line)
            if not job.reused and (there := foreign_file(own)) is not None:
                raise RequestError(
                    f"{own} can't be the directory of a job, since {there} is there: choose "
                    "another hydra.sweep.dir"
                )
        elif job.entry.damage:
            raise RequestError(
                f"{own} can't be gone on with ({job.entry.damage}): put a sound copy there, or "
                "choose another hydra.sweep.dir"
            )
        return job

    def _reuse(self, job: Job, line: Line | None) -> None:
        """See what there is of a job whose own directory has no run."""
        if line is not None and line.state == "failed":
            job.fail(line.reason)
        if not self.whole["reuse"] or job.starts_over:
            return
        found = self.plan.history.complete(job.planned.signature)
        if found is not None:
            job.directory, job.reused = Path(os.path.abspath(found.directory)), True
            entry = Entry(job.directory, relative(job.directory), record=found.record)
            job.entry = entry.asked(job.planned.choices)

    def _wanted(self, settings: Mapping[str, Any], choices: Mapping[str, str]) -> bool:
        known = facts(
            Entry(Path(), "", record=Record("", config=dict(settings), choices=dict(choices)))
        )
        check_known(self.filter.names, [known])
        return self.filter.holds(known)

    def _refusal(self, count: int) -> RequestError:
        """One error that names every wrong job."""
        (reason, words), *others = self.wrong.items()
        if not others and len(words) == count:
            # What is wrong with all needn't be told of each.
            return RequestError(reason)
        wrong = sum(map(len, self.wrong.values()))
        lines = [f"{wrong} of {count} jobs are wrong, so none was started:"]
        for reason, words in self.wrong.items():
            lines += [f"  {word}" for word in words[:MOST_TOLD]]
            if len(words) > MOST_TOLD:
                lines.append(f"  and {len(words) - MOST_TOLD} more")
            lines.append(f"    {reason}")
        return WrongJobs("\n".join(lines))

    def _refuse_orphans(self) -> None:
        """See that every run in the directory is one that is asked for.

        Raises:
            RequestError: one isn't; with where it differs from the nearest job that is.
        """
        orphans = [
            line for line in self.ledger.lines if line.signature not in self.jobs and line.begun
        ]
        if not orphans:
            return
        settings = [dict(flatten(job.planned.config)) for job in self.jobs.values()]
        told = [f"job {line.number} ({_describe(line, settings)})" for line in orphans[:MOST_TOLD]]
        more = f", and {len(orphans) - MOST_TOLD} more" if len(orphans) > MOST_TOLD else ""
        raise RequestError(
            f"{relative(self.plan.directory)} has runs that this command doesn't ask for: "
            f"{', '.join(told)}{more}; ask for them as well, or choose another hydra.sweep.dir, "
            "where those that are finished are reused"
        )


def _describe(line: Line, settings: Iterable[Mapping[str, Any]]) -> str:
    """The words of a job that isn't asked for, and where it differs from the nearest that is."""
    found = (
        [
            f"{name}: {typed(there)} there, {typed(here)} here"
            for name, (there, here) in differences(line.settings, each).items()
            if not is_incidental(name)
        ]
        for each in settings
    )
    nearest = min(found, key=len)
    return f"{' '.join(line.overrides)}; {', '.join(nearest[:5])}"


def _with_seed(words: Iterable[str], seed: int) -> list[str]:
    return [*(word for word in words if _key(word) != "seed"), f"seed={seed}"]


def _key(word: str) -> str:
    return word.partition("=")[0]
