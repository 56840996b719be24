"""Format errors of the package, of Hydra and of OmegaConf as one sentence each."""

import contextlib
import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import resnet_sweep.conf
from resnet_sweep.compare.format import escape
from resnet_sweep.config import PRESET_GROUPS
from resnet_sweep.config.check import unknown_name
from resnet_sweep.errors import ConfigError, InternalError, InvalidJobs, RunFailed

# A choice that needs a plugin, the package of the plugin, and the extra that installs it.
_SLURM = ("hydra/launcher=slurm", "hydra-submitit-launcher", "slurm")
CONF = Path(resnet_sweep.conf.__file__).parent
# Settings of hydra/sweeper=optuna that hydra/sweeper=grid doesn't have.
OPTUNA_SETTINGS = (
    "n_trials",
    "n_jobs",
    "sampler",
    "pruner",
    "direction",
    "storage",
    "study_name",
    "max_failures",
    "max_failure_rate",
    "max_worker_crashes",
    "enqueue",
    "warm_start",
)
# The length of an error message in characters, because it may quote a value of any length.
MAX_LENGTH = 1000
# Raised while a config is composed or resolved, if the overrides are wrong.
COMPOSITION_ERRORS = (ConfigError, HydraException, OmegaConfBaseException)


@contextlib.contextmanager
def wrap_internal_errors() -> Iterator[None]:
    """Raise unexpected errors as InternalError, to distinguish them from Hydra's errors."""
    try:
        yield
    except (*COMPOSITION_ERRORS, RunFailed):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise ConfigError(
                f"{error.filename} can't be a path ({error.strerror}): choose a shorter one"
            ) from error
        raise InternalError(str(error)) from error


def format_error(error: Exception, arguments: Sequence[str] = ()) -> str:
    """Format an error as one line; for `InvalidJobs`, as the lines of its message.

    Args:
        error: an error of the package, of Hydra or of OmegaConf.
        arguments: flags and overrides as typed, to find the choices in `--config-dir`.
    """
    if isinstance(error, InvalidJobs):
        return "\n".join(map(_shorten, str(error).splitlines()))
    text = _shorten(_one_line(_describe(error, arguments)))
    if not text and isinstance(error.__cause__, Exception):
        return format_error(error.__cause__, arguments)
    return text or type(error).__name__


def missing_package(choice: str, package: str, extra: str) -> str:
    """Return the error message for a choice whose package isn't installed."""
    return f"{choice} needs the package {package}: pip install 'resnet-sweep[{extra}]'"


def _shorten(text: str) -> str:
    text = escape(text)
    if len(text) > MAX_LENGTH:
        text = f"{text[: MAX_LENGTH // 2]} ... {text[-MAX_LENGTH // 2 :]}"
    return text


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _describe(error: Exception, arguments: Sequence[str]) -> str:
    text = str(error)
    if isinstance(error, ConfigError):
        return text
    if isinstance(error, InstantiationException):
        return f"{text.splitlines()[0]}: {error.__cause__}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = error.missing_cfg_file
        if missing == "hydra/launcher/submitit_slurm":
            return missing_package(*_SLURM)
        group, _, choice = missing.rpartition("/")
        # For a choice in a list, such as augmentation=[a,b], Hydra lists no options.
        if options := error.options or _choices(group, arguments):
            near = get_close_matches(choice, options, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            return f"there is no {group}={choice}{hint}: the choices are {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        problem = text.partition("\n")[2].partition("\nSee ")[0]
        if "=" not in error.override:
            return (
                f'{error.override} has no "=": write GROUP=CHOICE or KEY=VALUE, without spaces '
                "around ="
            )
        return (
            f"{error.override} isn't a valid override ({_one_line(problem)}): put quotes around a "
            "value with special characters"
        )
    if found := re.match(r"Additional config directory '(.*)' not found", text):
        return f"--config-dir={found[1]} isn't a directory: name a folder with config files"
    if found := re.match(r"Multiple values for (\S+)\..*\n?.*'(.*)' from 'command line'", text):
        group, choice = found.groups()
        return f"+{group}={choice} adds a second choice: write {group}={choice}"
    if isinstance(error, YAMLError):
        return f"a config file isn't valid YAML ({_one_line(text)}): correct it"
    if found := re.match(r"Ambiguous value for argument '(([^=]*)=(.*))'\n", text):
        override, key, value = found.groups()
        return (
            f"{override} has several values: add --multirun to sweep over them, or write "
            f"{key}=[{value}] for a list of them"
        )
    if isinstance(error, OSError) and error.filename:
        setting = "hydra.sweep.dir" if {"--multirun", "-m"} & {*arguments} else "hydra.run.dir"
        return (
            f"the directory {error.filename} can't be used ({error.strerror}): choose another with "
            f"{setting}=DIRECTORY"
        )
    # The list of the folders that Hydra searched is left out, because it is long.
    return _unknown_key(error) or re.split(r"\nConfig search path|\n\s*full_key:", text)[0]


def _unknown_key(error: Exception) -> str | None:
    cause = error.__cause__
    parent, name = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if isinstance(parent, DictConfig) and not parent._is_none() and not parent._is_interpolation():
        # The config isn't resolved, because another setting may have an invalid interpolation.
        parent = OmegaConf.to_container(parent, resolve=False)
    if not isinstance(parent, dict) or not isinstance(name, str) or name in parent:
        return None
    prefix = str(getattr(cause, "full_key", name)).removesuffix(name)
    if prefix == "hydra.sweeper." and name in OPTUNA_SETTINGS:
        return (
            f"{prefix}{name} isn't a setting of hydra/sweeper=grid: add --multirun "
            "hydra/sweeper=optuna"
        )
    if not prefix and name in OPTUNA_SETTINGS:
        return (
            f"{name} isn't a setting: did you mean hydra.sweeper.{name}, with --multirun "
            "hydra/sweeper=optuna?"
        )
    known = [key for key in parent if key != "hydra"] + ([] if prefix else [*PRESET_GROUPS])
    # A key without its group is the most common mistake, unless another name is very similar.
    if not get_close_matches(name, known, cutoff=0.8):
        for group in known:
            if isinstance(parent.get(group), Mapping) and name in parent[group]:
                return f"{prefix}{name} isn't a setting: did you mean {prefix}{group}.{name}?"
    return unknown_name(prefix, name, known)


def _choices(group: str, arguments: Sequence[str]) -> list[str]:
    """Return the choices of a config group, including those in `--config-dir`."""
    parts = [part for argument in arguments for part in argument.split("=", 1)]
    added = (part for flag, part in pairwise(parts) if flag in ("--config-dir", "-cd"))
    folders = [CONF, *map(Path, added)]
    files = (path for folder in folders for path in folder.joinpath(group).glob("*.yaml"))
    return sorted({path.stem for path in files}) if group else []
