"""Training: `python -m resnet_sweep OVERRIDE...`, composed by Hydra."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_sweep.config.instantiate import execution_whitelist
from resnet_sweep.errors import ConfigError, InternalError, RunFailed
from resnet_sweep.studies.sweeper import OptunaSweeper
from resnet_sweep.sweeps.grid import GridSweeper
from resnet_sweep.training.torchrun import Torchrun

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
SWEEPERS = ("grid", "optuna")


@hydra.main(
    config_path="pkg://resnet_sweep.conf",
    config_name="config",
    execution_whitelist=execution_whitelist(),
)
def entry(config: DictConfig) -> None:
    """Train a single run.

    Raises:
        SystemExit: it didn't finish. Hydra would print a line of its own for other exceptions.
    """
    status = _exit_status(lambda: _train(config))
    if status:
        raise SystemExit(status)


def main(words: Sequence[str]) -> None:
    """Run a command line of overrides and Hydra's flags, and exit with its status."""
    for plugin in (GridSweeper, OptunaSweeper):
        Plugins.instance().register(plugin)
    sys.exit(_exit_status(lambda: _call_hydra(words), words))


def _train(config: DictConfig) -> int:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        raise _unknown_sweeper(str(hydra_config.runtime.choices.get("hydra/sweeper")))
    # Imported here because torch takes seconds that --cfg and --help needn't wait.
    from resnet_sweep.config.errors import internal_errors
    from resnet_sweep.single_run import train_config

    with internal_errors():
        return train_config(config)


def _unknown_sweeper(name: str) -> ConfigError:
    return ConfigError(
        f"hydra/sweeper={name} isn't a sweeper of this program: choose {' or '.join(SWEEPERS)}"
    )


def _call_hydra(words: Sequence[str]) -> int:
    check_flags(words)
    for word in words:
        name, _, sweeper = word.partition("=")
        # Hydra's own sweepers write files before they train anything.
        if name == "hydra/sweeper" and sweeper not in SWEEPERS:
            raise _unknown_sweeper(sweeper)
    words = as_multirun([*map(quoted, words)])
    torchrun = Torchrun.here()
    if torchrun and torchrun.rank:
        # The directory of the run is made by rank 0.
        words = [*words, "hydra.run.dir=."]
    # With this, Hydra hands over its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _arguments(words):
        entry()
    return 0


@contextlib.contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """Set the arguments that Hydra parses, which it takes from nowhere else."""
    before = sys.argv
    sys.argv = [before[0], *words]
    try:
        yield
    finally:
        sys.argv = before


def _exit_status(action: Callable[[], int], words: Sequence[str] = ()) -> int:
    """Carry an action out, print what is wrong, and return the exit status."""
    try:
        return action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except RunFailed:
        return FAILED
    except InternalError as error:
        _print(traceback.format_exception(error.__cause__), every_rank=True)
        return FAILED
    # Hydra has errors of many kinds for what a user types.
    except Exception as error:
        from resnet_sweep.config.errors import format_error

        _print([f"error: {format_error(_explain(error, words), words)}\n"])
        # An installation that isn't complete isn't the request's fault.
        return FAILED if isinstance(error, InstantiationException) else REFUSED


def _explain(error: Exception, words: Sequence[str]) -> Exception:
    """Say of a run directory that Hydra can't make how to choose another."""
    if isinstance(error, OSError) and error.filename:
        return ConfigError(
            f"the directory {error.filename} can't be used ({error.strerror}): choose another with "
            "hydra.run.dir=DIRECTORY"
        )
    for word in words:
        if "\0" in word and "null byte" in str(error):
            return ConfigError(f"{word} has a null byte, which no file name can have: remove it")
    return error


def _print(lines: Sequence[str], every_rank: bool = False) -> None:
    torchrun = Torchrun.here()
    if every_rank or torchrun is None or torchrun.rank == 0:
        # The reader may have closed the pipe.
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


def check_flags(words: Sequence[str]) -> None:
    """Refuse the flag that takes the next word away from the run.

    Hydra knows -p PACKAGE for --cfg alone, and says nothing elsewhere.

    Raises:
        ConfigError: it is among the words.
    """
    package = next((word for word in words if word.startswith(("-p", "--p"))), None)
    # The other flags that begin like -c say where configs are.
    shows = re.compile(r"-c(?![dnp]$|[dnp]=)|--cfg")
    if package and not any(map(shows.match, words)):
        raise ConfigError(
            f"{package} is a flag of --cfg, and would take the next word for itself: leave it out, "
            "or put --cfg job before it"
        )


def quoted(word: str) -> str:
    """Return an override with quotes around its value, if that is a filter expression.

    Hydra needs them around an operator, and the shell removes those that people write.
    """
    name, _, value = word.partition("=")
    if name not in ("sweep_filter", "baseline") or value in ("", "null") or value[0] in "'\"$":
        return word
    return f"{name}={QuotedString(value, Quote.single).with_quotes()}"


def as_multirun(words: Sequence[str]) -> list[str]:
    """Return the words with --multirun before them, if they ask for several runs.

    A preset can't set Hydra's mode, so `sweep=...` and `replicates=...` imply the flag.
    """
    several = re.compile(r"sweep=(?!null$|default$)|replicates=0*([2-9]|[1-9]\d+)$")
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    # Other flags of Hydra's ask for something else than a run.
    places = {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"}
    if flags - places or not any(map(several.match, words)):
        return list(words)
    return ["--multirun", *words]
