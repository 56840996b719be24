"""A prepared run, carried out in its directory."""

import contextlib
import logging
import shlex
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from resnet_sweep.composition.prepare import Prepared
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run
from resnet_sweep.training.console import ConsoleMonitor, console
from resnet_sweep.training.device import set_threads
from resnet_sweep.training.interruption import Interrupted, StopRequest
from resnet_sweep.training.loop import Diverged, Training
from resnet_sweep.training.monitor import Monitor
from resnet_sweep.training.plots import Plots

PACKAGES = ("resnet-sweep", "torch", "torchvision", "hydra-core", "omegaconf", "numpy")

log = logging.getLogger(__name__)


def open_run(
    prepared: Prepared, directory: Path, overrides: list[str], choices: dict[str, str]
) -> Run:
    """The run directory of a prepared run, begun or gone on with.

    Args:
        prepared: the run.
        directory: where it is to be.
        overrides: as typed.
        choices: the choice made in each config group.

    Raises:
        RequestError: the directory can't be used for this run; nothing in it was touched.
    """
    record = Record(
        signature=prepared.signature,
        config=dict(prepared.config),
        choices=choices,
        overrides=overrides,
        parameters=prepared.parameters,
        device=str(prepared.device),
        threads=set_threads(prepared.settings.threads),
        precision=prepared.precision,
        versions=_versions(),
        git_commit=_git_commit(),
        host=socket.gethostname(),
        seed=prepared.config["seed"],
        fingerprint=prepared.dataset.fingerprint,
    )
    return Run.open(directory, record, prepared.settings.resume)


class RunFailed(Exception):
    """A run ended by an error, which its record and its log tell."""


def execute(prepared: Prepared, run: Run) -> Record:
    """Train a run to its end, or until it is asked to stop.

    Returns:
        Its record: finished or diverged.

    Raises:
        Interrupted: it was asked to stop; its state is saved.
        RunFailed: an error ended it.
    """
    monitors: list[Monitor] = []
    with StopRequest() as stop:
        try:
            set_threads(prepared.settings.threads)
            training = prepared.training()
            log.info("%s", _introduction(prepared, run, training))
            monitors += [
                ConsoleMonitor(training.steps, training.steps_per_epoch, prepared.settings.epochs),
                *prepared.loggers(),
                Plots(training.rows),
            ]
            training.fit(run, monitors, stop)
            _end(run, monitors, "finished")
        except Diverged as error:
            _end(run, monitors, "diverged", str(error))
        except Interrupted as error:
            _end(run, monitors, "interrupted", str(error))
            log.warning("%s; its state is saved. To go on:\n  %s", error, command(run))
            raise
        except KeyboardInterrupt:
            _end(run, monitors, "interrupted", "stopped at once by SIGINT")
            log.warning("stopped at once. To go on from the last checkpoint:\n  %s", command(run))
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.error(
                "the run failed (%s); train.log says where. To try again from its last "
                "checkpoint:\n  %s", reason, command(run),
            )  # fmt: skip
            # Whatever broke the run, a full disk for one, may break its end as well.
            with contextlib.suppress(Exception):
                _end(run, monitors, "failed", reason)
            raise RunFailed(reason) from error
    log.info("%s", outcome(run))
    return run.record


def tell_ended(run: Run) -> None:
    """Say that a run needs no more training, and how it ended."""
    console.print(
        f"This run has ended already; there is nothing to train.\n{outcome(run)}", markup=False
    )


def outcome(run: Run) -> str:
    """How a run ended, in the terms of the training log."""
    return f"{run.record.summary()}\n  {'Run directory:':27}{_shown(run.directory)}"


def _end(run: Run, monitors: list[Monitor], state: str, reason: str = "") -> None:
    try:
        for monitor in monitors:
            monitor.ended(run.record)
    finally:
        run.close(state, reason)


def command(run: Run) -> str:
    """The command that goes on with a run."""
    words = [*run.record.overrides, f"hydra.run.dir={_shown(run.directory)}"]
    return "python -m resnet_sweep " + shlex.join(words)


def _introduction(prepared: Prepared, run: Run, training: Training) -> str:
    record, data = run.record, prepared.dataset
    choices = record.choices
    held_out = data.validation is not data.test
    lines = {
        "Model": f"{choices.get('model')}, {prepared.parameters:,} parameters",
        "Data": f"{choices.get('data')}, {len(data.train):,} images to train on, "
        f"{len(data.validation):,} {'held-out ' if held_out else ''}to validate on",
        "Recipe": ", ".join(
            f"{group} {choices.get(group)}"
            for group in ("optim", "schedule", "augmentation", "loss")
        ),
        "Length": f"{prepared.settings.epochs} epochs of {training.steps_per_epoch} steps of "
        f"{prepared.settings.batch_size} images"
        + (f", cut off after {training.steps} steps" if prepared.settings.max_steps else ""),
        "Device": f"{record.device}, {record.threads} threads, {record.precision}",
        "Seed": record.seed,
        "Run directory": _shown(run.directory),
    }
    return "\n".join(f"  {name + ':':16}{value}" for name, value in lines.items())


def _shown(directory: Path) -> str:
    """A directory as a user would type it."""
    here = Path.cwd()
    return str(directory.relative_to(here) if directory.is_relative_to(here) else directory)


def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _git_commit() -> str | None:
    """The commit of the clone that this program runs from, "+" behind it if it was changed."""
    clone = Path(__file__).parents[2]
    if not (clone / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=clone, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
