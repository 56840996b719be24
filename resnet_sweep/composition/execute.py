"""A prepared run, carried out in its directory."""

import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from resnet_sweep.composition import followers
from resnet_sweep.composition.build import build_loggers
from resnet_sweep.composition.command import command, relative
from resnet_sweep.composition.prepare import Prepared
from resnet_sweep.console import console
from resnet_sweep.errors import RunFailed
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run, start_over
from resnet_sweep.training.console import ConsoleMonitor
from resnet_sweep.training.device import configure, set_threads
from resnet_sweep.training.gradients import GradientWatch
from resnet_sweep.training.interruption import Interrupted, StopRequest
from resnet_sweep.training.loop import Diverged, Training
from resnet_sweep.training.monitor import Monitor, Pruned
from resnet_sweep.training.plots import Plots
from resnet_sweep.training.torchrun import Torchrun
from resnet_sweep.training.whereabouts import Whereabouts

PACKAGES = ("resnet-sweep", "torch", "torchvision", "hydra-core", "omegaconf", "numpy")

log = logging.getLogger(__name__)


def open_run(
    prepared: Prepared,
    directory: Path,
    overrides: list[str],
    flags: list[str],
    choices: dict[str, str],
) -> Run:
    """The run directory of a prepared run, begun or gone on with.

    Args:
        prepared: the run.
        directory: where it is to be.
        overrides, flags: as typed.
        choices: the choice made in each config group.

    Raises:
        RequestError: the directory can't be used for this run; nothing in it was touched.
    """
    record = Record(
        signature=prepared.signature,
        config=dict(prepared.config),
        choices=choices,
        overrides=overrides,
        flags=flags,
        parameters=prepared.parameters,
        host=socket.gethostname(),
        device=str(prepared.device),
        threads=set_threads(prepared.settings.threads),
        ranks=prepared.ranks.size,
        precision=prepared.precision,
        versions=_versions(),
        git_commit=_git_commit(),
        seed=prepared.config["seed"],
        fingerprint=prepared.dataset.fingerprint,
        notes=prepared.notes,
    )
    torchrun = Torchrun.here()
    # Starting over was asked for once, not whenever torchrun starts its processes again.
    if not prepared.settings.resume and not (torchrun and torchrun.restarts):
        start_over(directory, record)
    return Run.open(directory, record)


def execute(
    prepared: Prepared,
    run: Run,
    stop: StopRequest,
    bar: bool = True,
    others: Sequence[Monitor] = (),
) -> None:
    """Train a run until it is finished, pruned or has diverged, or is asked to stop.

    Args:
        prepared, run: what to train, and where.
        stop: whether to stop.
        bar: show a progress bar on a terminal.
        others: monitors beside the usual ones, told last.

    Raises:
        Interrupted: it was asked to stop; its state is saved.
        RunFailed: an error ended it.
    """
    monitors: list[Monitor] = []
    try:
        configure(prepared.device, prepared.precision, prepared.settings.threads)
        if prepared.ranks.size > 1:
            followers.begin()
        training = prepared.training()
        log.info("%s", _introduction(prepared, run, training))
        monitors += [
            ConsoleMonitor(training.steps, training.steps_per_epoch, prepared.settings.epochs, bar),
            Whereabouts(run, training.steps_per_epoch),
            GradientWatch(),
            # Before the loggers, which may keep the pictures.
            Plots(),
            *build_loggers(prepared.config),
            # Last, so that the others know of an epoch by which one of these prunes the run.
            *others,
        ]
        enough = training.fit(run, monitors, stop)
        run.record.notes = [*prepared.notes, *training.notes()]
        _end(run, monitors, "stopped_early" if enough else "finished", enough or "")
    except Diverged as error:
        _end(run, monitors, "diverged", str(error))
    except Pruned as error:
        _end(run, monitors, "pruned", str(error))
    except Interrupted as error:
        # Told first, because someone in a hurry may press Ctrl-C again.
        log.warning("%s; its state is saved. To go on:\n  %s", error, going_on(run))
        _end(run, monitors, "interrupted", str(error))
        raise
    except KeyboardInterrupt:
        log.warning("stopped at once. To go on from the last checkpoint:\n  %s", going_on(run))
        _end(run, monitors, "interrupted", "stopped at once by SIGINT")
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        log.error(
            "the run failed (%s); train.log says where. To try again from its last checkpoint:\n"
            "  %s", reason, going_on(run),
        )  # fmt: skip
        # Whatever broke the run, a full disk for one, may break its end as well.
        with contextlib.suppress(Exception):
            _end(run, monitors, "failed", reason)
        raise RunFailed(reason) from error
    log.info("%s", outcome(run))


def tell_ended(run: Run) -> None:
    """Say that a run needs no more training, and how it ended."""
    console.print(
        f"This run has ended already; there is nothing to train.\n{outcome(run)}", markup=False
    )


def outcome(run: Run) -> str:
    """How a run ended, in the terms of the training log."""
    return f"{run.record.summary()}\n  {'Run directory:':27}{relative(run.directory)}"


def _end(run: Run, monitors: list[Monitor], state: str, reason: str = "") -> None:
    # In memory first, so that monitors know; on the disk when they are done.
    run.record.state, run.record.reason = state, reason
    try:
        for monitor in monitors:
            monitor.ended(run.record)
    finally:
        run.close(state, reason)


def going_on(run: Run) -> str:
    """The command that goes on with a run."""
    # Starting over was asked for once, not whenever the run goes on.
    overrides = [word for word in run.record.overrides if not word.startswith("trainer.resume=")]
    words = [*run.record.flags, *overrides]
    return command(words, "hydra.run.dir", run.directory, run.record.ranks or 1)


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
        "Device": f"{record.device}, {record.threads} threads, {record.precision}"
        + (f", each of {prepared.ranks.size} processes" if prepared.ranks.size > 1 else ""),
        "Seed": record.seed,
        "Run directory": relative(run.directory),
    }
    rows = [*lines.items(), *(("Note", note) for note in prepared.notes)]
    return "\n".join(f"  {name + ':':16}{value}" for name, value in rows)


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
