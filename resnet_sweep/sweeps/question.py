"""The question whether a change of settings is an improvement, and its answer."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig, read_write

from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.paired_test import ERROR_RATE
from resnet_sweep.config.command import relative_path
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    is_named_by_time,
    read_hydra_flags,
    read_overrides,
)
from resnet_sweep.config.plan import plan_run
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.output import exit_on_write_error
from resnet_sweep.runs.record import Record, duration
from resnet_sweep.runs.signature import differences, is_incidental
from resnet_sweep.sweeps.grid import expand
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.launchers import trains_elsewhere
from resnet_sweep.sweeps.plan import SweepPlan
from resnet_sweep.sweeps.replication import Look
from resnet_sweep.sweeps.runner import SweepRunner, check_sweep, terminable
from resnet_sweep.sweeps.summary import print_plan

# Exit statuses. The status 2 means that the question was refused.
BETTER, NOT_BETTER, UNDECIDED, NO_VERDICT = 0, 1, 3, 4
# Where the runs of a question are by default; each question has a folder there.
DIRECTORY = Path("multirun", "judge")


class Question:
    """Whether a change of settings is an improvement.

    A question is a sweep of two variants with `replicates=auto`: the baseline, and the baseline
    with the change.

    Args:
        context, config: as in `run_sweep`.
        base: the overrides of the baseline, and the settings of the sweep as a whole.
        change: the overrides of the change.
        questions: number of questions that share an error probability of 5% (Bonferroni).

    Raises:
        ConfigError: the question can't be answered; nothing was written.
    """

    def __init__(
        self,
        context: HydraContext,
        config: DictConfig,
        base: Sequence[str],
        change: Sequence[str],
        questions: int = 1,
    ) -> None:
        check_sweep(config)
        if not isinstance(config.objective, str):
            raise ConfigError(
                f"objective=[{','.join(map(str, config.objective))}] names several values, but a "
                "question compares one: choose one objective"
            )
        self.context, self.config = context, config
        self.base, self.change, self.questions = base, change, questions
        loader = context.config_loader
        combinations = [_expand(loader, overrides) for overrides in (base, [*base, *change])]
        records = [_plan(loader, config, combination) for combination in combinations]
        self._check(*records)
        condition = _condition(*(LoadedRun(Path(), "", record) for record in records))
        if is_named_by_time(config.hydra.sweep):
            # A directory can't be used again with fewer seeds. So the same question with another
            # number of seeds gets another directory, where it reuses the finished runs.
            parts = [*(record.signature for record in records), str(config.max_replicates)]
            name = blake2b(" ".join(parts).encode(), digest_size=6).hexdigest()
            with read_write(config.hydra.sweep):
                config.hydra.sweep.dir = str(DIRECTORY / name)
        with read_write(config):
            config.baseline = condition
        self.plan = SweepPlan(
            loader,
            config,
            Path(os.path.abspath(config.hydra.sweep.dir)),
            [[*combination, f"baseline={condition}"] for combination in combinations],
            level=ERROR_RATE / questions,
        )

    @property
    def command(self) -> str:
        """The command that asks the question again."""
        omitted = ("dry_run=", "replicates=", "max_replicates=", "margin=")
        own = ("hydra/sweeper=", "hydra.sweeper.", "hydra.mode=")
        base = [text for text in self.base if not text.startswith(omitted)]
        hydra = [
            text
            for text in read_overrides(self.config.hydra, "hydra")
            if not text.lstrip("+").startswith(own)
        ]
        arguments = [*self.change, "--baseline"]
        arguments.append(shlex.join([*read_hydra_flags(self.config.hydra), *base, *hydra]))
        settings = self.plan.settings
        arguments += ["--max-replicates", str(settings["max_replicates"])]
        if settings["margin"] is not None:
            arguments += ["--margin", str(settings["margin"])]
        if self.questions > 1:
            arguments += ["--questions", str(self.questions)]
        return f"python -m resnet_sweep judge {shlex.join(arguments)}"

    def answer(self, as_json: bool = False) -> int:
        """Train what is missing, print the answer, and return the exit status.

        Raises:
            SystemExit: a signal stopped the sweep; the state of the running jobs is saved.
        """
        if self.config.dry_run:
            print_plan(self.plan, self.config.retry_failed)
            return 0
        with terminable():
            runner = SweepRunner(self.plan, self.config, self.context, self.command)
            runner.run()
        answer = self._answer(runner.trained)
        for line in self._describe(answer):
            console.print(line, markup=False)
        if as_json:
            try:
                print(json.dumps(answer), flush=True)
            except OSError as error:
                exit_on_write_error(error, NO_VERDICT)
        status: int = answer["exit_status"]
        return status

    def _check(self, baseline: Record, changed: Record) -> None:
        text = safe_text(" ".join(self.change))
        if baseline.seed != changed.seed:
            raise ConfigError(
                f"{text} changes the seed, but a good result with one seed says nothing about "
                "other seeds: leave seed out, because both variants are trained with the same seeds"
            )
        runs = (LoadedRun(Path(), "", record) for record in (baseline, changed))
        names = differences(*(run.settings for run in runs))
        # A metric is part of the signature, but doesn't change the training.
        if all(name.startswith("metric.") for name in names):
            raise ConfigError(
                f"{text} changes nothing that is trained, so there is nothing to judge: change a "
                "setting that affects training to a value that the baseline doesn't have"
            )

    def _answer(self, trained: Sequence[Job]) -> dict[str, Any]:
        """Return the answer, as it is printed as JSON."""
        replication = self.plan.replication
        look: Look | None = None
        if replication is not None:
            (variant,) = replication.others
            look = replication.looks.get(variant)
        broken = [job for job in self.plan.jobs if not job.ended]
        verdict = None if look is None or (look.is_open and broken) else look.verdict
        status = NO_VERDICT if verdict is None else NOT_BETTER
        status = {"better": BETTER, "undecided": UNDECIDED}.get(verdict or "", status)
        done = [job for job in self.plan.jobs if job.ended]
        new = {*trained}
        return {
            "verdict": verdict,
            "exit_status": status,
            "change": [*self.change],
            "baseline": self.plan.settings["baseline"],
            "objective": self.plan.objective.name,
            "difference": look.difference if look else None,
            "interval": look.interval if look else None,
            "seeds": look.seeds if look else 0,
            "max_replicates": self.plan.settings["max_replicates"],
            "margin": self.plan.settings["margin"],
            "questions": self.questions,
            "trained_runs": sum(job in new for job in done),
            "trained_seconds": sum(_own_seconds(job) for job in done if job in new),
            "reused_runs": sum(job not in new for job in done),
            "reused_seconds": sum(_own_seconds(job) for job in done if job not in new),
            "failed": [
                {
                    "directory": relative_path(job.directory),
                    "state": job.state,
                    "reason": job.reason,
                }
                for job in broken
            ],
            "directory": relative_path(self.plan.directory),
        }

    def _describe(self, answer: dict[str, Any]) -> Iterator[str]:
        """Yield the lines that are printed."""
        text = safe_text(" ".join(self.change))
        looks = self.plan.replication.looks if self.plan.replication else {}
        if answer["verdict"] is None:
            reason = (
                f"{pluralize(len(answer['failed']), 'job')} not done"
                if answer["failed"]
                else "all runs of the baseline diverged"
            )
            yield f"\nNo verdict on {text}: {reason}"
        for look in looks.values() if answer["verdict"] else ():
            found = look.format(self.plan.objective)
            yield f"\nVerdict on {text}: {found}, with {look.seeds} seeds"
        yield (
            f"Cost: {pluralize(answer['trained_runs'], 'run')} trained in "
            f"{duration(answer['trained_seconds'])}, {pluralize(answer['reused_runs'], 'run')} "
            f"reused ({duration(answer['reused_seconds'])})"
        )


def _expand(loader: ConfigLoader, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the only combination of values; ConfigError if there are several."""
    first, *others = expand(overrides, [], loader)
    if others:
        values = [text for text in others[-1] if text not in first]
        raise ConfigError(
            "a question compares one change with one baseline, but there are several values, the "
            f"last of them {safe_text(', '.join(values))}: choose one"
        )
    return first


def _own_seconds(job: Job) -> float:
    """Return the time in which a job was trained, without the epochs that another run trained."""
    shared = job.record.shared_epochs
    rows = job.run.metrics.rows[: shared["epochs"]] if shared else ()
    return (job.record.seconds or 0) - sum(row.get("seconds", 0) for row in rows)


def _plan(loader: ConfigLoader, config: DictConfig, overrides: list[str]) -> Record:
    """Return the record of the run with some overrides."""
    with composed_job(loader, config, overrides) as composed:
        settings = ComposedConfig.of(composed, composed.hydra)
        planned = plan_run(settings.settings, elsewhere=trains_elsewhere(config))
        return planned.record(settings)


def _condition(baseline: LoadedRun, changed: LoadedRun) -> str:
    """Return a condition that the baseline meets, and the changed run doesn't.

    Raises:
        ConfigError: no comparison of a single setting is such a condition.
    """
    fields, others = run_fields(baseline), run_fields(changed)
    names = [name for name in differences(fields, others) if not is_incidental(name)]
    # The choice in a config group says more than a setting of the group.
    for name in sorted(names, key=lambda name: name not in baseline.choices):
        try:
            condition = FilterExpression(f"{name} == {json.dumps(fields.get(name))}")
        except ConfigError:
            continue
        if condition.matches(fields) and not condition.matches(others):
            return condition.text
    raise ConfigError(
        "the change can't be judged, because no condition on one setting distinguishes it from the "
        "baseline: use a sweep with replicates=auto"
    )
