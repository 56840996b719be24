"""Train a planned run in its directory, for a single run, a grid or a study."""

import contextlib
import logging
import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import env_override

from resnet_sweep.compare.format import format_duration, format_number, format_percent, pluralize
from resnet_sweep.config.build import build_loggers
from resnet_sweep.config.command import format_command, relative_path
from resnet_sweep.config.instantiate import trusted_packages
from resnet_sweep.config.plan import PlannedRun, load_planned_run
from resnet_sweep.errors import ConfigError, RunFailed, one_line
from resnet_sweep.runs.provenance import commit_of, git_commit, read_hydra_job, versions
from resnet_sweep.runs.record import Record, State
from resnet_sweep.runs.run import LOG, Run, mark_failed
from resnet_sweep.training.callbacks import Callback, Pruned
from resnet_sweep.training.callbacks.plots import Plots
from resnet_sweep.training.callbacks.progress import GradientWarnings, LogFileHandler, ProgressLog
from resnet_sweep.training.callbacks.usage import ResourceUsage
from resnet_sweep.training.device import configure, set_threads
from resnet_sweep.training.signals import Interrupted, StopSignal, exit_status
from resnet_sweep.training.trainer import Diverged, Trainer, steps_per_epoch

LOG_FORMAT = "[%(asctime)s] %(message)s"

log = logging.getLogger(__name__)


def train_job(directory: Path) -> str:
    """Train the planned run in a job's directory, and return its last state; see `train_planned`.

    Raises:
        SystemExit: a signal stopped the process; the state of the run is saved.
    """
    stop = StopSignal().listen()
    try:
        state = train_planned(directory, stop)
    except Interrupted as interruption:
        raise SystemExit(exit_status(interruption.signal)) from None
    finally:
        stop.release()
    if stop.received:
        # The signal arrived after the job had ended, so it has to stop the sweep.
        raise SystemExit(stop.exit_status)
    return state


def train_planned(
    directory: Path,
    stop: StopSignal,
    planned: PlannedRun | None = None,
    callbacks: Sequence[Callback] = (),
) -> str:
    """Train the planned run in a directory, and return its last state.

    An error is written to the record of the run and isn't raised.

    Args:
        directory: a run directory with a record in state `pending` or later, and with `.hydra/`.
        stop: receives the signals that stop the run.
        planned: the run, if this process has planned it.
        callbacks: additional callbacks, called last.

    Raises:
        Interrupted: a signal stopped the run; its state is saved.
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
    """Train an opened run until it finishes, stops early, is pruned or diverges.

    Args:
        planned: the run.
        run: its opened directory.
        stop: receives the signals that stop the run.
        callbacks: additional callbacks, called last.
        bar: show a progress bar on a terminal.
        chdir: change to the run directory during training (hydra.job.chdir).

    Raises:
        Interrupted: a signal stopped the run; its state is saved.
        KeyboardInterrupt: a second Ctrl-C stopped the run; its last checkpoint is saved.
        RunFailed: the run ended with an error.
    """
    active: list[Callback] = []
    try:
        settings = planned.settings
        configure(planned.device, planned.precision, settings.threads)
        training = planned.build_trainer()
        log.info("%s", describe_run(planned, run.record, run.directory))
        active += [
            ProgressLog(run, training, bar),
            ResourceUsage(run, planned.device),
            GradientWarnings(),
            # The plots come before the loggers, which may upload them.
            Plots(),
            *build_loggers(planned.config),
            # These come last, because they may prune the run after an epoch that the others log.
            *callbacks,
        ]
        # Paths in configs and in printed commands are relative to the folder of the command, so
        # only the training itself runs in another folder.
        with contextlib.chdir(run.directory) if chdir else contextlib.nullcontext():
            state, reason = _fit(training, run, active, stop)
        if state in ("finished", "stopped_early"):
            run.record.notes = [*planned.notes, *training.notes()]
        _end(run, active, state, reason)
    except (Interrupted, KeyboardInterrupt) as error:
        # A second Ctrl-C raises KeyboardInterrupt, whose message is empty.
        reason = str(error) or "stopped at once by SIGINT"
        saved = "state" if isinstance(error, Interrupted) else "last checkpoint"
        # This is printed before the callbacks end, since a second Ctrl-C may come at any moment.
        command = resume_command(run)
        log.warning("%s; the run's %s is saved. Resume with:\n  %s", reason, saved, command)
        _end(run, active, "interrupted", reason)
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}{_own_line(error)}"
        retry = f"Retry from its last checkpoint with:\n  {resume_command(run)}"
        advice = f"{LOG} has the traceback. {retry}"
        if not os.path.exists(run.directory):
            advice = (
                f"The directory {relative_path(run.directory)} no longer exists. If it was "
                "renamed, repeat the command with hydra.run.dir=NEW_NAME; if it was removed, the "
                "run is lost"
            )
        log.error("the run failed (%s). %s", reason, advice)
        _log_traceback(error)
        # The cause of the error, such as a full disk, may also prevent this write.
        with contextlib.suppress(Exception):
            _end(run, active, "failed", reason)
        raise RunFailed(reason) from error
    log.info("%s", summarize_run(run.record, run.directory))


def _fit(
    training: Trainer, run: Run, callbacks: Sequence[Callback], stop: StopSignal
) -> tuple[State, str]:
    """Train a run; return its last state, and the reason if it ended early, or else ""."""
    try:
        stopped_early = training.fit(run, callbacks, stop)
    except Diverged as error:
        return "diverged", str(error)
    except Pruned as error:
        return "pruned", str(error)
    return ("stopped_early", stopped_early) if stopped_early else ("finished", "")


def _end(run: Run, callbacks: Sequence[Callback], state: State, reason: str) -> None:
    # This is a copy, because the heartbeat thread writes the record itself, which isn't final yet.
    ended = replace(run.record, state=state, reason=reason)
    try:
        for callback in callbacks:
            if callback.train_started:
                callback.on_train_end(ended)
    finally:
        run.close(state, reason)


def add_environment(record: Record, planned: PlannedRun) -> Record:
    """Add the host, device, threads, processes, versions and commits to a planned record."""
    record.host = socket.gethostname()
    record.device = str(planned.device)
    record.threads = set_threads(planned.settings.threads)
    record.world_size = planned.process_group.world_size
    record.versions = versions()
    record.git_commit = git_commit()
    folder = planned.own_code.folder
    record.code_commit = None if folder is None else commit_of(folder)
    return record


def describe_run(planned: PlannedRun, record: Record, directory: Path) -> str:
    """Return a few lines with the model, data, length, device and directory of a run."""
    data, settings, choices = planned.dataset, planned.settings, record.choices
    held_out = "held-out " if data.validation is not data.test else ""
    validation = f"{len(data.validation):,} {held_out}validation images"
    steps = steps_per_epoch(len(data.train), settings)
    length = (
        f"{pluralize(settings.epochs, 'epoch')} of {pluralize(steps, 'step')} of "
        f"{pluralize(settings.batch_size, 'image')}"
    )
    if settings.max_steps:
        last = min(settings.max_steps, settings.epochs * steps)
        length += f", stopped after {pluralize(last, 'step')}"
    device = f"{record.device}, {pluralize(record.threads or 1, 'thread')}, {record.precision}"
    if planned.process_group.world_size > 1:
        device += f", in each of {planned.process_group.world_size} processes"
    groups = ("optim", "schedule", "augmentation", "loss")
    lines = [
        ("Model", f"{choices.get('model')}, {planned.parameters:,} parameters"),
        ("Data", f"{choices.get('data')}, {len(data.train):,} training images, {validation}"),
        ("Recipe", ", ".join(f"{group} {choices.get(group)}" for group in groups)),
        ("Length", length),
        ("Device", device),
        ("Seed", record.seed),
        ("Run directory", relative_path(directory)),
        *(("Note", note) for note in planned.notes),
    ]
    return "\n".join(f"  {name + ':':16}{value}" for name, value in lines)


def summarize_run(record: Record, directory: Path) -> str:
    """Return the results of a run, with the labels of the training log."""
    best, final = record.best, record.final
    lines = []
    if record.state != "finished":
        lines.append(("State", f"{record.state}: {record.reason}"))
    if best is not None and final is not None:
        lines += [
            (
                "Best validation accuracy",
                f"{format_percent(best['val_acc'])} (epoch {best['epoch']})",
            ),
            ("Final training accuracy", format_percent(final["train_acc"])),
            ("Final validation accuracy", format_percent(final["val_acc"])),
            ("Final training loss", format_number(final["train_loss"], 4)),
            ("Overfitting gap", format_percent(record.gap)),
            ("Time", format_duration(record.seconds)),
        ]
    lines += [("Note", note) for note in record.notes]
    if record.reused_from is not None:
        lines.append(("Reused from", relative_path(Path(record.reused_from))))
    lines.append(("Run directory", relative_path(directory)))
    return "\n".join(f"  {name + ':':27}{value}" for name, value in lines)


def resume_command(run: Run) -> str:
    """Return the command that resumes a run."""
    # With trainer.resume=false, the command would retrain the run instead of resuming it.
    overrides = [
        text for text in run.record.overrides if not text.lstrip("+").startswith("trainer.resume=")
    ]
    arguments = [*run.record.hydra_flags, *overrides]
    return format_command(arguments, "hydra.run.dir", run.directory, run.record.world_size or 1)


@contextlib.contextmanager
def logging_to(path: Path, console: bool = True) -> Iterator[None]:
    """Append log messages to a file within a `with` block, and print them if `console`."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    file = LogFileHandler(path, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter(LOG_FORMAT))
    root.handlers = [*(handlers if console else ()), file]
    # A logging config of Hydra, such as hydra/job_logging=none, may have disabled them.
    for name, logger in logging.Logger.manager.loggerDict.items():
        if name.startswith("resnet_sweep.") and isinstance(logger, logging.Logger):
            logger.disabled = False
    if root.level > logging.INFO or root.level == logging.NOTSET:
        root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        file.close()


def _own_line(error: BaseException) -> str:
    """Return the last line of the user's own code that an error passed, as the end of a clause."""
    packages = trusted_packages()
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        module = f"{frame.f_globals.get('__name__')}."
        if any(module.startswith(f"{package}.") for package in packages):
            return f", in {os.path.basename(frame.f_code.co_filename)}, line {line}"
    return ""


def _log_traceback(error: BaseException) -> None:
    """Write a traceback to the log file only, because the terminal has the message."""
    details = (type(error), error, error.__traceback__)
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "the run failed", (), details)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogFileHandler):
            handler.handle(record)
