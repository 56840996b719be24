"""Training in Python, with the overrides and the code of the command line."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_sweep import request
from resnet_sweep.api.runs import Run, load_run
from resnet_sweep.api.sweep import Sweep
from resnet_sweep.config.command import path_override, relative_path
from resnet_sweep.config.errors import format_error
from resnet_sweep.errors import ConfigError, InternalError, RunFailed
from resnet_sweep.request import Request, hydra_arguments
from resnet_sweep.torchrun import TorchrunEnvironment

# The exit status of a command after Ctrl-C.
INTERRUPTED = 130


def train(
    overrides: Sequence[str] = (),
    *,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Run:
    """Train a single run, as `python -m resnet_sweep OVERRIDE...` does, and return it.

    A run that diverges is returned, too, with the state `diverged`. If the run in the directory has
    already ended, it is returned. If it was interrupted, it is resumed.

    Args:
        overrides: overrides in the grammar of the command line, for example `optim.lr=0.1`.
        directory: the run directory; None for a new one in `outputs`.
        config_dir: a folder with config files of your own, as with `--config-dir`.

    Raises:
        ConfigError: the request is wrong; nothing was written.
        RunFailed: the run ended with an error. It resumes from its last checkpoint if the call is
            repeated with its directory.
        KeyboardInterrupt: Ctrl-C stopped the run; its state is saved.
        SystemExit: another signal stopped the run; its state is saved.
        InternalError: this program has an error, which is the cause of the exception.
    """
    arguments = _arguments(overrides, config_dir)
    if directory is not None:
        arguments.append(path_override("hydra.run.dir", directory))
    if "--multirun" in hydra_arguments(arguments):
        raise ConfigError(
            f"{' '.join(overrides)} describes a sweep: call sweep() instead of train()"
        )
    return load_run(relative_path(_carry_out(arguments)))


def sweep(
    overrides: Sequence[str] = (),
    *,
    launcher: str | None = None,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Sweep:
    """Train a sweep or a study, as `python -m resnet_sweep --multirun OVERRIDE...` does.

    A job that fails or diverges doesn't stop the others; see the states in `Sweep.runs`. In a
    directory with the same sweep, finished jobs are skipped, and interrupted jobs are resumed.

    Args:
        overrides: as for `train`, with several values, for example `optim.lr=0.1,0.05`. For a
            study, add `hydra/sweeper=optuna`.
        launcher: where the jobs run: `pool` for several processes on this machine, `slurm`, `ray`
            or `joblib`; None for one after the other in this process.
        directory: the sweep directory; None for a new one in `multirun`.
        config_dir: as for `train`.

    Raises:
        ConfigError: the request is wrong; nothing was written.
        KeyboardInterrupt: Ctrl-C stopped the sweep; the state of its runs is saved.
        SystemExit: another signal stopped the sweep, or the storage of a study can't be reached;
            the state of its runs is saved.
        InternalError: this program has an error, which is the cause of the exception.
    """
    arguments = ["--multirun", *_arguments(overrides, config_dir)]
    if launcher is not None:
        arguments.append(f"hydra/launcher={launcher}")
    if directory is not None:
        arguments.append(path_override("hydra.sweep.dir", directory))
    return Sweep(relative_path(_carry_out(arguments)))


def compose(
    overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> dict[str, Any]:
    """Return the config of a run as nested dictionaries, without training it.

    Args:
        overrides, config_dir: as for `train`.

    Raises:
        ConfigError: a choice or a setting doesn't exist, or has no value. The values are checked
            when the run is trained.
    """
    arguments = _arguments(overrides, config_dir)
    with _config_errors(arguments):
        return request.compose(arguments).settings


def _arguments(overrides: Sequence[str], config_dir: str | Path | None) -> list[str]:
    """Return the arguments of a command, after checking that the overrides have no flags."""
    if isinstance(overrides, (str, Mapping)):
        raise ConfigError(
            f"overrides is {overrides!r}: give a list of texts, for example ['optim.lr=0.1']"
        )
    for override in overrides:
        if not isinstance(override, str):
            raise ConfigError(
                f"the override {override!r} isn't text: write it as on the command line, for "
                "example 'optim.lr=0.1'"
            )
        if override.startswith("-"):
            raise ConfigError(
                f"{override} is a flag of the command line: leave it out; sweep() trains a sweep, "
                "and config_dir names a folder with config files"
            )
        if override.lstrip("+").startswith("hydra.mode="):
            raise ConfigError(
                f"{override} can't be set: call train() for a single run, or sweep() for a sweep"
            )
    flags = [] if config_dir is None else ["--config-dir", str(config_dir)]
    return [*flags, *overrides]


def _carry_out(arguments: Sequence[str]) -> Path:
    """Train what a command describes, and return the directory of the run or the sweep."""
    torchrun = TorchrunEnvironment.current()
    if torchrun is not None and torchrun.world_size > 1:
        raise ConfigError(
            f"torchrun started {torchrun.world_size} processes, but train() and sweep() use one: "
            "start torchrun -m resnet_sweep with the same overrides"
        )
    requested = Request(arguments)
    with _config_errors(arguments), _torch_state():
        try:
            requested.carry_out()
        except SystemExit as leaving:
            if leaving.code == INTERRUPTED:
                raise KeyboardInterrupt from None
            # With the status 1, a run diverged, or jobs of a sweep failed. Their records say so.
            if leaving.code != 1 or requested.directory is None:
                raise
    if requested.directory is None:
        raise ConfigError(
            "dry_run=true trains nothing, so there is nothing to return: leave it out, or use the "
            "command line"
        )
    return requested.directory


@contextlib.contextmanager
def _config_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Raise errors of Hydra as ConfigError, with the sentence that the command prints."""
    try:
        yield
    except (ConfigError, RunFailed, InternalError):
        raise
    except Exception as error:
        raise ConfigError(format_error(error, arguments)) from error


@contextlib.contextmanager
def _torch_state() -> Iterator[None]:
    """Restore the number of threads and the random state of torch after a `with` block."""
    import torch

    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
