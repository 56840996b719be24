"""What a sweep gets when one of Hydra's own sweepers carries it out.

Those compose each job when it begins, so that the jobs are known only by their directories, and
only when they have begun.
"""

import os
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, read_write

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.objective import Objective
from resnet_sweep.composition.check import SETTINGS, check_value
from resnet_sweep.composition.command import STARTED_IN, relative
from resnet_sweep.composition.gate import claim_new, setting_of
from resnet_sweep.console import console
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.run import make_directory
from resnet_sweep.sweeps import preview, results
from resnet_sweep.sweeps.composing import compose_plan
from resnet_sweep.sweeps.job import BROKEN, Job
from resnet_sweep.sweeps.outcome import describe, tell_outcome, varying_words
from resnet_sweep.sweeps.plan import WHOLE


def begin(config: DictConfig) -> None:
    """See to a sweep's directory, before its sweeper does.

    Args:
        config: of the sweep as a whole.

    Raises:
        RequestError: the directory can't be used, or a setting of the sweep is wrong.
        SystemExit: only a preview was asked for.
    """
    if "sampler" in config.hydra.sweeper and not config.hydra.sweeper.get("custom_search_space"):
        from resnet_sweep.sweeps.study import stock as search

        lines = search.check(GlobalHydra.instance().config_loader(), config)
        if config.sweep_mode == "preview":
            console.print("\n".join(lines), markup=False)
            raise SystemExit(0)
    if config.sweep_mode == "preview":
        preview.show(compose_plan(GlobalHydra.instance().config_loader(), config))
        raise SystemExit(0)
    for name in WHOLE:
        check_value(name, setting_of(config, name), SETTINGS[name])
    for name, neutral in (("sweep_filter", None), ("zip", []), ("sweep_mode", "run")):
        if setting_of(config, name) != neutral:
            raise RequestError(
                f"{name}={setting_of(config, name)} needs a sweeper that composes all jobs first: "
                "leave it out, or have hydra/sweeper=grid"
            )
    _objective(config)
    _baseline(config)
    claim_new(config.hydra.sweep)
    make_directory(Path(config.hydra.sweep.dir))
    directory = QuotedString(config.hydra.sweep.dir, Quote.single).with_quotes()
    with read_write(config.hydra.overrides):
        config.hydra.overrides.hydra += [
            f"hydra.sweep.dir={directory}",
            # Written by the job itself, once its directory is found right.
            "hydra.output_subdir=null",
            # On screen is the sweep.
            "hydra.job_logging.root.handlers=[file]",
        ]


def note(config: DictConfig, error: object) -> None:
    """Tell of a job that has ended, and write `results.csv`.

    Args:
        config: of the job.
        error: that ended it; None if none did.
    """
    top = Path(os.path.abspath(config.hydra.sweep.dir))
    jobs = _jobs(top)
    results.write(top, jobs, _objective(config))
    # A job of replicates has several runs.
    own = Path(config.hydra.runtime.output_dir)
    for job in jobs:
        if job.directory.is_relative_to(own):
            console.print(f"{describe(job)}  {' '.join(job.record.overrides)}", markup=False)
    if any(job.directory.is_relative_to(own) for job in jobs):
        return
    if isinstance(error, RequestError):
        number = config.hydra.job.num
        console.print(f"job {number} couldn't begin: {error}", markup=False)


def end(config: DictConfig) -> bool:
    """Tell what came of a sweep; returns whether a job of it failed.

    Args:
        config: of the sweep as a whole.
    """
    top = Path(os.path.abspath(config.hydra.sweep.dir))
    jobs = _jobs(top)
    results.write(top, jobs, _objective(config))
    tell_outcome(jobs, varying_words(jobs), _baseline(config), _objective(config))
    console.print(f"Sweep directory: {relative(top)}", markup=False)
    return any(job.state in BROKEN for job in jobs)


def _jobs(top: Path) -> list[Job]:
    """The jobs that have begun, by their directories."""
    jobs = []
    for entry in find_runs([top]):
        if entry.record is not None:
            name = entry.directory.relative_to(top).parts[0]
            number = int(name) if name.isdecimal() else len(jobs)
            job = Job(number, entry.record, Path(os.path.abspath(entry.directory)))
            job.look()
            jobs.append(job)
    return sorted(jobs, key=lambda job: (job.number, job.record.seed or 0))


def _objective(config: DictConfig) -> Objective:
    return Objective.of(config, STARTED_IN)


def _baseline(config: DictConfig) -> Condition | None:
    return None if config.baseline is None else Condition(config.baseline)
