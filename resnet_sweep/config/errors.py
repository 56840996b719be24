"""One sentence for each error of a command line, Hydra's or our own."""

import contextlib
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

import resnet_sweep.conf
from resnet_sweep.compare.format import escaped
from resnet_sweep.config import PRESET_GROUPS
from resnet_sweep.config.check import unknown_name
from resnet_sweep.errors import ConfigError, InternalError, InvalidJobs, RunFailed

# A choice that builds on a plugin, the package that has the plugin, and the extra that installs it.
_SLURM = ("hydra/launcher=slurm", "hydra-submitit-launcher", "slurm")
CONF = Path(resnet_sweep.conf.__file__).parent
# An error may quote a value of any length.
MAX_LENGTH = 1000
# What composing and resolving a config raises when the user's words are wrong.
COMPOSITION_ERRORS = (ConfigError, HydraException, OmegaConfBaseException)


@contextlib.contextmanager
def wrap_internal_errors() -> Iterator[None]:
    """Raise unexpected errors as InternalError, since Hydra raises any kind for what users type."""
    try:
        yield
    except (*COMPOSITION_ERRORS, RunFailed):
        raise
    except Exception as error:
        raise InternalError(str(error)) from error


def format_error(error: Exception, words: Sequence[str] = ()) -> str:
    """Format an error as one line, or, for `InvalidJobs`, as a line for each job.

    Args:
        error: ours, Hydra's or OmegaConf's.
        words: flags and overrides as typed, to find the choices in `--config-dir`.
    """
    if isinstance(error, InvalidJobs):
        return "\n".join(map(_shorten, str(error).splitlines()))
    return _shorten(_one_line(_describe(error, words))) or type(error).__name__


def missing_package(choice: str, package: str, extra: str) -> str:
    """Return the sentence for a choice whose package isn't installed."""
    return f"{choice} needs the package {package}: pip install 'resnet-sweep[{extra}]'"


def _shorten(text: str) -> str:
    text = escaped(text)
    if len(text) > MAX_LENGTH:
        text = f"{text[: MAX_LENGTH // 2]} ... {text[-MAX_LENGTH // 2 :]}"
    return text


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


def _describe(error: Exception, words: Sequence[str]) -> str:
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
        # Hydra lists no options for one of several choices.
        if options := error.options or _choices(group, words):
            near = get_close_matches(choice, options, n=1)
            hint = f"did you mean {near[0]}? There is" if near else "there is"
            return f"there is no {group}={choice}: {hint} {', '.join(options)}"
    if isinstance(error, OverrideParseException):
        problem = text.partition("\n")[2].partition("\nSee ")[0]
        return (
            f"{error.override} can't be read as an override ({_one_line(problem)}): write "
            "GROUP=CHOICE or KEY=VALUE, and quotes around a value with special characters"
        )
    if found := re.match(r"Ambiguous value for argument '(([^=]*)=(.*))'\n", text):
        override, key, value = found.groups()
        return (
            f"{override} has several values: add --multirun to sweep over them, or write "
            f"{key}=[{value}] for a list of them"
        )
    if isinstance(error, OSError) and error.filename:
        return (
            f"the directory {error.filename} can't be used ({error.strerror}): choose another with "
            "hydra.run.dir=DIRECTORY"
        )
    # Without Hydra's list of the places that it searched.
    return _unknown_key(error) or re.split(r"\nConfig search path|\n\s*full_key:", text)[0]


def _unknown_key(error: Exception) -> str | None:
    cause = error.__cause__
    parent, name = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if isinstance(parent, DictConfig) and not parent._is_none() and not parent._is_interpolation():
        # Unresolved, since an interpolation beside the key may be broken.
        parent = OmegaConf.to_container(parent, resolve=False)
    if not isinstance(parent, Mapping) or not isinstance(name, str) or name in parent:
        return None
    prefix = str(getattr(cause, "full_key", name)).removesuffix(name)
    known = [key for key in parent if key != "hydra"] + ([] if prefix else [*PRESET_GROUPS])
    # The group is what people most often leave out, unless a name beside it is much alike.
    if not get_close_matches(name, known, cutoff=0.8):
        for group in known:
            if isinstance(parent.get(group), Mapping) and name in parent[group]:
                return f"{prefix}{name} isn't a setting: did you mean {prefix}{group}.{name}?"
    return unknown_name(prefix, name, known)


def _choices(group: str, words: Sequence[str]) -> list[str]:
    """Return the choices of a config group, with those in the folder that `--config-dir` names."""
    parts = [part for word in words for part in word.split("=", 1)]
    added = (part for flag, part in pairwise(parts) if flag in ("--config-dir", "-cd"))
    folders = [CONF, *map(Path, added)]
    files = (path for folder in folders for path in folder.joinpath(group).glob("*.yaml"))
    return sorted({path.stem for path in files}) if group else []
