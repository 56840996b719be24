"""Hydra's complaints, in one sentence each."""

import re
from collections.abc import Mapping
from difflib import get_close_matches

from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException

from resnet_sweep.composition.check import unknown_name
from resnet_sweep.errors import RequestError

# Groups whose choices set values of the others, and so aren't in the config themselves.
PRESETS = ("experiment", "debug", "sweep")


def sentence(error: Exception) -> str:
    """What was wrong with the command line, and how to mend it."""
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, InstantiationException):
        return _one_line(f"{str(error).splitlines()[0]}: {error.__cause__}")
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _unknown_choice(error.missing_cfg_file or "", error.options)
    if isinstance(error, OverrideParseException):
        problem = str(error).partition("\n")[2].partition("\nSee ")[0]
        return (
            f"{error.override} can't be read as an override ({_one_line(problem)}): write "
            "GROUP=CHOICE or KEY=VALUE, and quotes around a value with special characters"
        )
    cause = error.__cause__
    parent, name = getattr(cause, "parent_node", None), getattr(cause, "key", None)
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


def _unknown_choice(missing: str, options: list[str]) -> str:
    group, _, choice = missing.rpartition("/")
    near = get_close_matches(choice, options, n=1)
    hint = f"did you mean {near[0]}? There is" if near else "there is"
    return f"there is no {group}={choice}: {hint} {', '.join(options)}"


def _one_line(text: str) -> str:
    return "; ".join(line.strip().rstrip(".") for line in text.splitlines() if line.strip())
