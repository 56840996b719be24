"""Training of a planned run in its directory: that of a single run, or of a job of a sweep."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import env_override

from resnet_sweep.compare.format import number, percent, span
from resnet_sweep.config.build import build_loggers
from resnet_sweep.config.command import format_command, relative_path
from resnet_sweep.config.plan import PlannedRun, load_planned_run
from resnet_sweep.errors import ConfigError, RunFailed, one_line
from resnet_sweep.runs.provenance import git_commit, read_hydra_job, versions
from resnet_sweep.runs.record import Record, State
from resnet_sweep.runs.run import Run, mark_failed
from resnet_sweep.training.callbacks import Callback, Pruned
from resnet_sweep.training.callbacks.plots import Plots
from resnet_sweep.training.callbacks.progress import GradientWarnings, LogFileHandler, ProgressLog
from resnet_sweep.training.device import configure, set_threads
from resnet_sweep.training.signals import Interrupted, StopSignal, exit_status
from resnet_sweep.training.trainer import Diverged, Trainer, steps_per_epoch

LOG = "train.log"
LOG_FORMAT = "[%(asctime)s] %(message)s"

log = logging.getLogger(__name__)


def train_job(directory: Path) -> str:
    """Train the planned run of a job's directory, and return its state; see `train_planned`.

    Raises:
        SystemExit: the process was asked to stop; the state of the run is saved.
    """
    stop = StopSignal().listen()
    try:
        state = train_planned(directory, stop)
    except Interrupted as interruption:
        raise SystemExit(exit_status(interruption.signal)) from None
    finally:
        stop.release()
    if stop.received:
        # It came when this job had ended, and is meant for the sweep.
        raise SystemExit(stop.exit_status)
    return state


def train_planned(
    directory: Path,
    stop: StopSignal,
    planned: PlannedRun | None = None,
    callbacks: Sequence[Callback] = (),
) -> str:
    """Train the planned run of a directory until it ends, and return its state.

    What happens to it is written into its record, and nowhere else.

    Args:
        directory: the run directory, with the plan in its record and with `.hydra/`.
        stop: signals that stop the run.
        planned: the run, if this process has planned it.
        callbacks: further ones, called last.

    Raises:
        Interrupted: a signal stopped it; its state is saved.
    """
    with logging_to(directory / LOG, console=False):
        try:
            job = read_hydra_job(directory)
            with env_override(job.get("env_set") or {}):
                record = Record.read(directory)
                planned = planned or load_planned_run(record)
                run = Run.open(directory, add_environment(record, planned))
                if not run.record.has_ended:
                    train(planned, run, stop, callbacks, bar=False, chdir=bool(job.get("chdir")))
                return run.record.state
        except Interrupted:
            raise
        except RunFailed:
            return "failed"
        except (ConfigError, OSError) as error:
            reason = one_line(error)
        except Exception as error:
            log.exception("the job could not be started")
            reason = one_line(f"{type(error).__name__}: {error}")
        mark_failed(directory, reason, resuming=True)
        return "failed"


def train(
    planned: PlannedRun,
    run: Run,
    stop: StopSignal,
    callbacks: Sequence[Callback] = (),
    bar: bool = True,
    chdir: bool = False,
) -> None:
    """Train a run in its open directory until it is finished, is pruned or has diverged.

    Args:
        planned: the run.
        run: its directory.
        stop: signals that stop the run.
        callbacks: further ones, called last.
        bar: show a progress bar on a terminal.
        chdir: have the run directory as the working directory during training (hydra.job.chdir).

    Raises:
        Interrupted: a signal stopped it; its state is saved.
        RunFailed: an error ended it.
    """
    active: list[Callback] = []
    try:
        settings = planned.settings
        configure(planned.device, planned.precision, settings.threads)
        training = planned.build_trainer()
        log.info("%s", describe_run(planned, run.record, run.directory))
        active += [
            ProgressLog(run, training, bar),
            GradientWarnings(),
            # Before the loggers, which may keep the pictures.
            Plots(),
            *build_loggers(planned.config),
            # Last, so that the others have seen an epoch by which one of these prunes the run.
            *callbacks,
        ]
        # Paths in a config, and in the commands that are printed, are relative to the folder of
        # the command, so only the training itself is in another one.
        with contextlib.chdir(run.directory) if chdir else contextlib.nullcontext():
            state, reason = _fit(training, run, active, stop)
        if state in ("finished", "stopped_early"):
            run.record.notes = [*planned.notes, *training.notes()]
        _end(run, active, state, reason)
    except (Interrupted, KeyboardInterrupt) as error:
        # A second Ctrl-C raises KeyboardInterrupt, whose message is empty.
        reason = str(error) or "stopped at once by SIGINT"
        saved = "state" if isinstance(error, Interrupted) else "last checkpoint"
        # Printed before the callbacks end, since a second Ctrl-C may come at any moment.
        log.warning("%s; its %s is saved. Resume with:\n  %s", reason, saved, resume_command(run))
        _end(run, active, "interrupted", reason)
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        retry = f"Retry from its last checkpoint with:\n  {resume_command(run)}"
        advice = f"{LOG} has the traceback. {retry}"
        if not os.path.exists(run.directory):
            advice = (
                f"Its directory {relative_path(run.directory)} is gone. If it was renamed, give the "
                "command again with hydra.run.dir=NEW_NAME; if it was removed, the run is lost"
            )
        log.error("the run failed (%s). %s", reason, advice)
        _log_traceback(error)
        # What ended the run, such as a full disk, may keep its end from being written, too.
        with contextlib.suppress(Exception):
            _end(run, active, "failed", reason)
        raise RunFailed(reason) from error
    log.info("%s", summarize_run(run.record, run.directory))


def _fit(
    training: Trainer, run: Run, callbacks: Sequence[Callback], stop: StopSignal
) -> tuple[State, str]:
    """Train a run; return the state in which it has ended, and why it ended early, if it did."""
    try:
        stopped_early = training.fit(run, callbacks, stop)
    except Diverged as error:
        return "diverged", str(error)
    except Pruned as error:
        return "pruned", str(error)
    return ("stopped_early", stopped_early) if stopped_early else ("finished", "")


def _end(run: Run, callbacks: Sequence[Callback], state: State, reason: str) -> None:
    # The heartbeat writes the run's own record, which must not say that it has ended before it has.
    ended = replace(run.record, state=state, reason=reason)
    try:
        for callback in callbacks:
            if callback.train_started:
                callback.on_train_end(ended)
    finally:
        run.close(state, reason)


def add_environment(record: Record, planned: PlannedRun) -> Record:
    """Add to a planned record where the run is trained: host, threads, versions."""
    record.host = socket.gethostname()
    record.device = str(planned.device)
    record.threads = set_threads(planned.settings.threads)
    record.world_size = planned.process_group.world_size
    record.versions = versions()
    record.git_commit = git_commit()
    return record


def describe_run(planned: PlannedRun, record: Record, directory: Path) -> str:
    """Return a few lines on what is trained, where and for how long."""
    data, settings, choices = planned.dataset, planned.settings, record.choices
    held_out = "held-out " if data.validation is not data.test else ""
    validation = f"{len(data.validation):,} {held_out}to validate on"
    steps = steps_per_epoch(len(data.train), settings)
    length = f"{settings.epochs} epochs of {steps} steps of {settings.batch_size} images"
    if settings.max_steps:
        length += f", cut off after {min(settings.max_steps, settings.epochs * steps)} steps"
    device = f"{record.device}, {record.threads} threads, {record.precision}"
    if planned.process_group.world_size > 1:
        device += f", each of {planned.process_group.world_size} processes"
    groups = ("optim", "schedule", "augmentation", "loss")
    lines = [
        ("Model", f"{choices.get('model')}, {planned.parameters:,} parameters"),
        ("Data", f"{choices.get('data')}, {len(data.train):,} images to train on, {validation}"),
        ("Recipe", ", ".join(f"{group} {choices.get(group)}" for group in groups)),
        ("Length", length),
        ("Device", device),
        ("Seed", record.seed),
        ("Run directory", relative_path(directory)),
        *(("Note", note) for note in planned.notes),
    ]
    return "\n".join(f"  {name + ':':16}{value}" for name, value in lines)


def summarize_run(record: Record, directory: Path) -> str:
    """Return the outcome of a run, in the terms of the training log."""
    best, final = record.best, record.final
    lines = []
    if record.state != "finished":
        lines.append(("State", f"{record.state}: {record.reason}"))
    if best is not None and final is not None:
        lines += [
            ("Best validation accuracy", f"{percent(best['val_acc'])} (epoch {best['epoch']})"),
            ("Final training accuracy", percent(final["train_acc"])),
            ("Final validation accuracy", percent(final["val_acc"])),
            ("Final training loss", number(final["train_loss"], 4)),
            ("Overfitting gap", percent(record.gap)),
            ("Time", span(record.seconds)),
        ]
    lines += [("Note", note) for note in record.notes]
    lines.append(("Run directory", relative_path(directory)))
    return "\n".join(f"  {name + ':':27}{value}" for name, value in lines)


def resume_command(run: Run) -> str:
    """Return the command that resumes a run."""
    # Starting over was asked for once, and not for each time that the run is resumed.
    overrides = [
        word for word in run.record.overrides if not word.lstrip("+").startswith("trainer.resume=")
    ]
    words = [*run.record.hydra_flags, *overrides]
    return format_command(words, "hydra.run.dir", run.directory, run.record.world_size or 1)


@contextlib.contextmanager
def logging_to(path: Path, console: bool = True) -> Iterator[None]:
    """Append log messages to a file within a `with` block, and print them if `console`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    file = LogFileHandler(path, delay=True)
    file.setFormatter(logging.Formatter(LOG_FORMAT))
    root.handlers = [*(handlers if console else ()), file]
    if root.level > logging.INFO or root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        file.close()


def _log_traceback(error: BaseException) -> None:
    """Write a traceback into the log file alone, since the terminal has the sentence."""
    details = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run failed", (), details)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFileHandler):
            handler.handle(record)
