"""Hydra's complaints, in one sentence each."""

import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

import resnet_sweep.conf
from resnet_sweep.compare.text import escaped
from resnet_sweep.composition.check import unknown_name
from resnet_sweep.errors import RequestError, WrongJobs

# Groups whose choices set values of the others, and so aren't in the config themselves.
PRESETS = ("experiment", "debug", "sweep")

# What a choice of ours builds on, the package that has it, and the extra that installs that.
_FROM_PLUGINS = {
    "hydra/launcher/submitit_slurm": ("hydra/launcher=slurm", "hydra-submitit-launcher", "slurm"),
}

CONF = Path(resnet_sweep.conf.__file__).parent
# What was typed may be of any length; what is said of it is for reading.
LONGEST = 1000


def sentence(error: Exception) -> str:
    """What was wrong with the command line, and how to mend it: one line fit to be printed.

    Of several wrong jobs of a sweep, a line or two for each.
    """
    if isinstance(error, WrongJobs):
        return "\n".join(map(_fit, str(error).splitlines()))
    text = "; ".join(line.strip() for line in _told(error).splitlines() if line.strip())
    return _fit(text) or type(error).__name__


def _fit(text: str) -> str:
    text = escaped(text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text


def _told(error: Exception) -> str:
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, InstantiationException):
        return _one_line(f"{str(error).splitlines()[0]}: {error.__cause__}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = error.missing_cfg_file
        if missing in _FROM_PLUGINS:
            return missing_package(*_FROM_PLUGINS[missing])
        group, _, _ = missing.rpartition("/")
        # Of one of several, Hydra doesn't say what there is.
        if options := error.options or _choices(group):
            return _unknown_choice(missing, options)
    if isinstance(error, OverrideParseException):
        problem = str(error).partition("\n")[2].partition("\nSee ")[0]
        return (
            f"{error.override} can't be read as an override ({_one_line(problem)}): write "
            "GROUP=CHOICE or KEY=VALUE, and quotes around a value with special characters"
        )
    if found := re.match(r"Ambiguous value for argument '(([^=]*)=(.*))'\n", str(error)):
        word, key, value = found.groups()
        return (
            f"{word} has several values: add --multirun to sweep over them, or write "
            f"{key}=[{value}] for a list of them"
        )
    if str(error).startswith("Config group override must be"):
        return _no_choice(str(error))
    cause = error.__cause__
    parent, name = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if OmegaConf.is_dict(parent) and not parent._is_none() and not parent._is_interpolation():
        # As it is typed: a value beside it may lead nowhere.
        parent = OmegaConf.to_container(parent, resolve=False)
    if isinstance(parent, Mapping) and isinstance(name, str) and name not in parent:
        prefix = str(cause.full_key).removesuffix(name)
        known = [key for key in parent if key != "hydra"] + ([] if prefix else [*PRESETS])
        for group in known:
            # Most of all, people forget the group.
            if isinstance(parent.get(group), Mapping) and name in parent[group]:
                return f"{prefix}{name} isn't a setting: did you mean {prefix}{group}.{name}?"
        return unknown_name(prefix, name, known)
    # The rest is told in Hydra's words, without its list of places that it looked in.
    return _one_line(re.split(r"\nConfig search path|\n\s*full_key:", str(error))[0])


def _no_choice(text: str) -> str:
    """Of a group that was given something else than a name, which Hydra doesn't tell."""
    for word in sys.argv[1:]:
        group, _, value = word.lstrip("+~").partition("=")
        choices = _choices(group)
        # What Hydra takes for something else than text.
        if choices and re.fullmatch(r"(?i)null|true|false|nan|[-+]?inf|[-+\d.].*|\{.*", value):
            return (
                f"{word} chooses nothing: a Config group override must name one or several of "
                f"{', '.join(choices)}"
            )
    return _one_line(text)


def _choices(group: str) -> list[str]:
    # What lies beside the groups is no choice.
    return sorted(path.stem for path in CONF.joinpath(group).glob("*.yaml")) if group else []


def missing_package(choice: str, package: str, extra: str) -> str:
    """That a choice needs a package which isn't installed, and how to have it."""
    return f"{choice} needs the package {package}: pip install 'resnet-sweep[{extra}]'"


def _unknown_choice(missing: str, options: list[str]) -> str:
    group, _, choice = missing.rpartition("/")
    near = get_close_matches(choice, options, n=1)
    hint = f"did you mean {near[0]}? There is" if near else "there is"
    return f"there is no {group}={choice}: {hint} {', '.join(options)}"


def _one_line(text: str) -> str:
    return "; ".join(line.strip().rstrip(".") for line in text.splitlines() if line.strip())
