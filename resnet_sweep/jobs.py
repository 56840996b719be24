"""Training of planned runs in their directories: a single run, or a job of a sweep."""

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from resnet_sweep.config.build import build_loggers
from resnet_sweep.config.command import command, relative
from resnet_sweep.config.compose import ComposedConfig, is_named_by_time, resolve, unresolved
from resnet_sweep.config.plan import PlannedRun, load_planned_run, plan_run
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, RunFailed
from resnet_sweep.runs.files import remove_if_empty
from resnet_sweep.runs.record import Record, State
from resnet_sweep.runs.run import Run, make_directory, mark_failed, reset_run
from resnet_sweep.training.callbacks import Callback, Pruned
from resnet_sweep.training.callbacks.plots import Plots
from resnet_sweep.training.callbacks.progress import GradientWarnings, LogFileHandler, ProgressLog
from resnet_sweep.training.device import configure, set_threads
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.signals import Interrupted, StopSignal, exit_status
from resnet_sweep.training.torchrun import Torchrun
from resnet_sweep.training.trainer import Diverged, Trainer

PACKAGES = ("resnet-sweep", "torch", "torchvision", "hydra-core", "omegaconf", "numpy")
HYDRA_FOLDER = ".hydra"
LOG = "train.log"
LOG_FORMAT = "[%(asctime)s] %(message)s"

log = logging.getLogger(__name__)


def train_config(config: DictConfig) -> int:
    """Train the single run that a composed config describes, in Hydra's run directory.

    Returns:
        The exit status.

    Raises:
        ConfigError: the run can't be trained; what was made for it is removed.
        RunFailed: an error ended the run.
    """
    # HydraConfig.get() is annotated with the schema of Hydra's settings, but returns a config.
    hydra: Any = HydraConfig.get()
    made = Path(hydra.runtime.output_dir)
    # With hydra.job.chdir, Hydra has changed it. Paths in a config mean the folder of the command.
    os.chdir(hydra.runtime.cwd)
    ranks = ProcessGroup.current()
    ranks.initialize()
    try:
        planned, composed = _plan(config, hydra, ranks)
        stop = StopSignal(ignore_repeats=ranks.world_size > 1).listen()
        try:
            run = _open_single_run(planned, composed, config, hydra, made)
            if run is None:
                return _train_along(planned, stop)
            if run.record.ended_for_good:
                console.print(
                    "This run has ended already; there is nothing to train.\n" + summary(run),
                    markup=False,
                )
            else:
                with logging_to(run.directory / LOG):
                    _train_in_environment(planned, run, stop)
            return int(run.record.state == "diverged")
        except Interrupted as interruption:
            return exit_status(interruption.signal)
        finally:
            stop.release()
    finally:
        remove_if_empty(made)
        ranks.destroy()


def train_job(directory: Path) -> str:
    """Train the planned run of a job's directory.

    What happens to it is written into its record, and nowhere else.

    Returns:
        The state of the run.

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
    """Train the planned run of a directory, until it ends or is asked to stop.

    What happens to it is written into its record, and nowhere else.

    Args:
        directory: of the run, with its record.
        stop: whether to stop.
        planned: the run, if this process has planned it.
        callbacks: further ones, called last.

    Returns:
        The state of the run.

    Raises:
        Interrupted: it was asked to stop; the state of the run is saved.
    """
    with logging_to(directory / LOG, console=False):
        try:
            record = Record.read(directory)
            planned = planned or load_planned_run(record)
            run = Run.open(directory, complete(record, planned))
            if not run.record.ended_for_good:
                _train_in_environment(planned, run, stop, bar=False, callbacks=callbacks)
            return run.record.state
        except Interrupted:
            raise
        except RunFailed:
            return "failed"
        except (ConfigError, OSError) as error:
            mark_failed(directory, " ".join(str(error).split()), resuming=True)
            return "failed"
        except Exception as error:
            log.exception("the job could not be started")
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            mark_failed(directory, reason, resuming=True)
            return "failed"


def _train_in_environment(
    planned: PlannedRun,
    run: Run,
    stop: StopSignal,
    bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train an open run in its `job_environment`; see `train`."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(job_environment(run.directory))
        except Exception as error:
            run.close("failed", f"{type(error).__name__}: {error}")
            raise
        train(planned, run, stop, bar, callbacks)


def train(
    planned: PlannedRun,
    run: Run,
    stop: StopSignal,
    bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train a run until it is finished, pruned or has diverged, or is asked to stop.

    Args:
        planned: what to train.
        run: its directory, opened.
        stop: whether to stop.
        bar: show a progress bar on a terminal.
        callbacks: further ones, called last.

    Raises:
        Interrupted: it was asked to stop; its state is saved.
        RunFailed: an error ended it.
    """
    active: list[Callback] = []
    try:
        configure(planned.device, planned.precision, planned.settings.threads)
        training = planned.training()
        log.info("%s", _introduction(planned, run, training))
        active += [
            ProgressLog(run, training, bar),
            GradientWarnings(),
            # Before the loggers, which may keep the pictures.
            Plots(),
            *build_loggers(planned.config),
            # Last, so that the others have seen an epoch by which one of these prunes the run.
            *callbacks,
        ]
        stopped_early = training.fit(run, active, stop)
        run.record.notes = [*planned.notes, *training.notes()]
        state: State = "stopped_early" if stopped_early else "finished"
        _end(run, active, state, stopped_early or "")
    except Diverged as error:
        _end(run, active, "diverged", str(error))
    except Pruned as error:
        _end(run, active, "pruned", str(error))
    except Interrupted as error:
        # Printed before the callbacks end, since a second Ctrl-C may come at any moment.
        log.warning("%s; its state is saved. Resume with:\n  %s", error, resume_command(run))
        _end(run, active, "interrupted", str(error))
        raise
    except KeyboardInterrupt:
        log.warning("stopped at once. Resume from the last checkpoint:\n  %s", resume_command(run))
        _end(run, active, "interrupted", "stopped at once by SIGINT")
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        log.error(
            "the run failed (%s); %s has the traceback. Retry from its last checkpoint with:\n  %s",
            reason,
            LOG,
            resume_command(run),
        )
        _log_to_file("the run failed", error)
        # A full disk that ended the run may keep its end from being written, too.
        with contextlib.suppress(Exception):
            _end(run, active, "failed", reason)
        raise RunFailed(reason) from error
    log.info("%s", summary(run))


def summary(run: Run) -> str:
    """Return the outcome of a run, in the terms of the training log."""
    return f"{run.record.summary()}\n  {'Run directory:':27}{relative(run.directory)}"


def resume_command(run: Run) -> str:
    """Return the command that resumes a run."""
    # Starting over was asked for once, and not for each time that the run is resumed.
    overrides = [
        word for word in run.record.overrides if not word.lstrip("+").startswith("trainer.resume=")
    ]
    words = [*run.record.flags, *overrides]
    return command(words, "hydra.run.dir", run.directory, run.record.ranks or 1)


def complete(record: Record, planned: PlannedRun) -> Record:
    """Add to a planned record where the run is trained: host, threads, versions."""
    record.host = socket.gethostname()
    record.device = str(planned.device)
    record.threads = set_threads(planned.settings.threads)
    record.ranks = planned.ranks.world_size
    record.versions = _versions()
    record.git_commit = _git_commit()
    return record


def write_hydra_folder(
    directory: Path, settings: Mapping[str, Any], hydra: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Write `.hydra/` of a run: the config, Hydra's own part of it, and the overrides.

    Args:
        directory: of the run.
        settings: the config without Hydra's own part.
        hydra: Hydra's own part.
        overrides: as typed.
    """
    folder = directory / HYDRA_FOLDER
    folder.mkdir(exist_ok=True)
    contents = {"config": settings, "hydra": {"hydra": hydra}, "overrides": list(overrides)}
    for name, content in contents.items():
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@contextlib.contextmanager
def logging_to(path: Path, console: bool = True) -> Iterator[None]:
    """Write log messages into a file, within a `with` block.

    Args:
        path: of the file, which is appended to.
        console: leave the other handlers of messages in place.
    """
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


@contextlib.contextmanager
def job_environment(directory: Path) -> Iterator[None]:
    """Set the variables of `hydra.job.env_set` and the working directory, within a `with` block.

    Args:
        directory: of the run, with `.hydra/`.
    """
    text = (directory / HYDRA_FOLDER / "hydra.yaml").read_text(encoding="utf-8")
    job = yaml.load(text, Loader=_Loader)["hydra"]["job"]
    changes = {name: str(value) for name, value in (job.get("env_set") or {}).items()}
    before = {name: os.environ.get(name) for name in changes}
    folder = Path.cwd()
    os.environ.update(changes)
    if job.get("chdir"):
        os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(folder)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _plan(
    config: DictConfig, hydra: DictConfig, ranks: ProcessGroup
) -> tuple[PlannedRun, ComposedConfig]:
    """Plan a single run, in each of the processes that share it.

    Raises:
        ConfigError: one of them can't train it.
    """
    error, result = None, None
    try:
        check_single_run(config)
        composed = ComposedConfig.of(config, hydra)
        result = plan_run(composed.settings, ranks), composed
    except ConfigError as refusal:
        error = refusal
    messages = ranks.all_gather(error and str(error))
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise ConfigError(f"process {rank} of {ranks.world_size} can't take part: {message}")
    assert result is not None
    return result


def check_single_run(config: DictConfig) -> None:
    """Refuse settings of a sweep in a single run.

    Raises:
        ConfigError: one of them is set.
    """
    for name, neutral in (
        ("dry_run", False),
        ("retry_failed", True),
        ("sweep_filter", None),
        ("zip", []),
    ):
        value = resolve(config, name)
        if value != neutral:
            raise ConfigError(
                f"{name}={value} is a setting of a sweep, but this is a single run: add "
                "--multirun, or leave it out"
            )


def _open_single_run(
    planned: PlannedRun,
    composed: ComposedConfig,
    config: DictConfig,
    hydra: DictConfig,
    made: Path,
) -> Run | None:
    """Open the directory of a single run; None on the processes that write nothing.

    Raises:
        ConfigError: the directory can't be used for this run; nothing in it was changed.
    """
    error, run = None, None
    if planned.ranks.is_main:
        try:
            run = _open_as_main(planned, composed, config, hydra, made)
        except ConfigError as refusal:
            error = refusal
    message, ended = planned.ranks.broadcast(
        (error and str(error), run is not None and run.record.ended_for_good)
    )
    if error is not None:
        raise error
    if message is not None:
        raise ConfigError(message)
    if run is None and ended:
        raise SystemExit(0)
    return run


def _open_as_main(
    planned: PlannedRun,
    composed: ComposedConfig,
    config: DictConfig,
    hydra: DictConfig,
    made: Path,
) -> Run:
    torchrun = Torchrun.here()
    record = complete(planned.record(composed), planned)
    directory = made
    if is_named_by_time(hydra.run):
        directory = torchrun.directory(lambda: _claim(made)) if torchrun else _claim(made)
    try:
        # Starting over was asked for once, and not for each restart by torchrun.
        if not planned.settings.resume and not (torchrun and torchrun.restarts):
            reset_run(directory, record)
        run = Run.open(directory, record)
    except BaseException:
        if directory != made:
            remove_if_empty(directory)
        raise
    if not run.record.ended_for_good:
        theirs = unresolved(hydra)
        theirs["runtime"]["output_dir"] = str(run.directory)
        try:
            write_hydra_folder(run.directory, unresolved(config), theirs, composed.overrides)
        except BaseException as error:
            # The disk that is full may keep this from being written, too.
            with contextlib.suppress(Exception):
                run.close("failed", f"{type(error).__name__}: {error}")
            raise
    return run


def _claim(directory: Path) -> Path:
    """Return a directory that no other run has: this one, or with -2, -3 behind its name.

    The process that makes `.hydra/` in a directory has it.

    Raises:
        ConfigError: it can't be made.
    """
    for number in count(1):
        candidate = directory.with_name(f"{directory.name}-{number}") if number > 1 else directory
        make_directory(candidate)
        try:
            (candidate / HYDRA_FOLDER).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"the directory {candidate} can't be used ({error.strerror or error}): choose "
                "another with hydra.run.dir=DIRECTORY"
            ) from error
        return candidate
    raise AssertionError


def _train_along(planned: PlannedRun, stop: StopSignal) -> int:
    """Train a share of a run whose directory another process has."""
    configure(planned.device, planned.precision, planned.settings.threads)
    try:
        planned.training().fit(None, (), stop)
    except Diverged:
        return 1
    return 0


def _end(run: Run, callbacks: Sequence[Callback], state: State, reason: str = "") -> None:
    # In memory first, so that callbacks know; on the disk when they have ended.
    run.record.state, run.record.reason = state, reason
    try:
        for callback in callbacks:
            callback.on_train_end(run.record)
    finally:
        run.close(state, reason)


def _log_to_file(message: str, error: BaseException) -> None:
    """Write a traceback into the log file alone, since the terminal has the sentence."""
    record = log.makeRecord(
        log.name, logging.ERROR, __file__, 0, message, (), (type(error), error, error.__traceback__)
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _introduction(planned: PlannedRun, run: Run, training: Trainer) -> str:
    record, data, settings = run.record, planned.dataset, planned.settings
    choices = record.choices
    held_out = data.validation is not data.test
    lines = {
        "Model": f"{choices.get('model')}, {planned.parameters:,} parameters",
        "Data": f"{choices.get('data')}, {len(data.train):,} images to train on, "
        f"{len(data.validation):,} {'held-out ' if held_out else ''}to validate on",
        "Recipe": ", ".join(
            f"{group} {choices.get(group)}"
            for group in ("optim", "schedule", "augmentation", "loss")
        ),
        "Length": f"{settings.epochs} epochs of {training.steps_per_epoch} steps of "
        f"{settings.batch_size} images"
        + (f", cut off after {training.total_steps} steps" if settings.max_steps else ""),
        "Device": f"{record.device}, {record.threads} threads, {record.precision}"
        + (
            f", each of {planned.ranks.world_size} processes"
            if planned.ranks.world_size > 1
            else ""
        ),
        "Seed": record.seed,
        "Run directory": relative(run.directory),
    }
    rows = [*lines.items(), *(("Note", note) for note in planned.notes)]
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
    """Return the commit of the clone that this program runs from, with "+" if it was changed."""
    clone = Path(__file__).parents[1]
    if not (clone / ".git").exists():
        return None
    git = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(
            git, cwd=clone, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


# mypy accepts no base class that is chosen when the module is imported.
class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what a config may contain beside plain values as text."""


_Dumper.add_multi_representer(object, lambda dumper, value: dumper.represent_str(str(value)))
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
