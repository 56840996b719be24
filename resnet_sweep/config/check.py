"""Validate the names and values of a config before objects are built from it.

An invalid one raises a `ConfigError` with the name, the value and the allowed values.
"""

import functools
import inspect
import json
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    ConfigDict,
    PydanticUserError,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import Doc

from resnet_sweep.compare.replication import FIRST, MAX_REPLICATES
from resnet_sweep.config import COLLECTION_GROUPS, OBJECT_GROUPS
from resnet_sweep.config.instantiate import locate
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import FURTHER, further_metrics, is_further_column

FurtherObjective = Annotated[
    str, StringConstraints(pattern=f"^{FURTHER}"), Doc(f"{FURTHER}NAME for metric=NAME")
]
Objective = Literal["val_acc", "val_loss", "distance_to_reference"] | FurtherObjective
AnyObjective = (
    Literal["val_acc", "val_loss", "distance_to_reference", "seconds", "parameters"]
    | FurtherObjective
)
# Settings that are in no group.
SETTINGS: dict[str, Any] = {
    "seed": Annotated[int, Ge(0)],
    "init_from": str | None,
    "replicates": Annotated[int, Ge(1), Le(MAX_REPLICATES)] | Literal["auto"],
    "max_replicates": Annotated[int, Ge(FIRST), Le(MAX_REPLICATES)],
    "margin": Annotated[float, Gt(0)] | None,
    "objective": Objective | list[AnyObjective],
    "reference": str | None,
    "dry_run": bool,
    "retry_failed": bool,
    "sweep_filter": str | None,
    "zip": list[str] | list[list[str]],
    "baseline": str | None,
    "reuse": bool,
    "share_epochs": bool,
}
# The choices without objects in the groups that a config must have.
NO_OBJECTS = {"augmentation": "none", "logger": "csv"}
# Settings that only apply to `replicates=auto`, with their defaults.
AUTO_SETTINGS: dict[str, Any] = {"max_replicates": 8, "margin": None}
# Settings of a group that aren't parameters of its `_target_`.
EXTRA_SETTINGS: dict[str, dict[str, Any]] = {
    "augmentation": {"until": Annotated[float, Gt(0), Le(1)]},
    "optim": {"decay_norm_and_bias": bool},
    "metric": {"percent": bool, "higher_is_better": bool},
}
# Parameters of library classes, whose own annotations don't bound the values.
LIBRARY_PARAMETERS: dict[str, Any] = {
    "lr": Annotated[float, Gt(0)],
    "momentum": Annotated[float, Ge(0), Lt(1)],
    "weight_decay": Annotated[float, Ge(0)],
    "betas": list[Annotated[float, Ge(0), Lt(1)]],
    "eps": Annotated[float, Gt(0)],
    "label_smoothing": Annotated[float, Ge(0), Lt(1)],
    "nesterov": bool,
}
# torch's integers have 64 bits.
MAX_INTEGER = 2**63 - 1
TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
    None: "null",
}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
# Arguments that the package passes to an object, and the settings that decide their values.
INSTEAD = {"pretrained": "init_from=pretrained"}
# Settings whose annotations don't show what their values mean.
DESCRIPTIONS = {
    "zip": "a list of keys, such as [optim.lr,seed], or a list of such lists",
    "hydra.sweeper.enqueue": (
        "current_config, or a list of mappings, such as [{optim.lr: 0.1}], or null"
    ),
}


def check_replication(settings: Mapping[str, Any]) -> None:
    """Check the settings of a sweep that belong to `replicates=auto`."""
    if settings["replicates"] == "auto":
        if settings["baseline"] is None:
            raise ConfigError(
                "replicates=auto adds seeds until the comparison with a baseline is decided, but "
                "there is no baseline: set one, for example baseline='optim.lr == 0.1', or set "
                "replicates to a number"
            )
        return
    for name, neutral in AUTO_SETTINGS.items():
        if settings[name] != neutral:
            raise ConfigError(
                f"{name}={describe_value(settings[name])} only applies to replicates=auto, but "
                f"replicates is {settings['replicates']}: set replicates=auto, or leave {name} out"
            )


def check_config(config: Mapping[str, Any]) -> None:
    """Check a resolved config against the parameters of the classes that it names."""
    # Runs from before the group `metric` existed don't have it.
    config = {"metric": {}, **config}
    required = {*OBJECT_GROUPS, *COLLECTION_GROUPS, "seed"}
    for group, neutral in NO_OBJECTS.items():
        if group not in config:
            raise ConfigError(f"{group} has no choice: write {group}={neutral} for none")
    check_names("", config, {*required, *SETTINGS}, required)
    for name in config.keys() & SETTINGS.keys():
        check_value(name, config[name], SETTINGS[name])
    for group, supplied in OBJECT_GROUPS.items():
        check_object(group, config[group], supplied)
    # The schedule needs optim.lr, so it has to be set, even if the optimizer has a default.
    check_names("optim.", config["optim"], config["optim"], {"lr"})
    for group, supplied in COLLECTION_GROUPS.items():
        if not isinstance(config[group], Mapping):
            raise ConfigError(
                f"{group}={config[group]} isn't a choice: choose one of the files in conf/{group}/"
            )
        for name, node in config[group].items():
            check_object(f"{group}.{name}", node, supplied)
    for name in config["metric"]:
        if not is_further_column(FURTHER + name):
            raise ConfigError(
                f"metric.{name} can't be the column {FURTHER}{name} of metrics.csv: use a name of "
                "small letters, digits and underscores, other than acc and loss"
            )
    averages = {metric.column for metric in further_metrics({"trainer": config["trainer"]})}
    for name in config["metric"]:
        if FURTHER + name in averages:
            raise ConfigError(
                f"metric.{name} has the name of a column of trainer.ema_decay: choose another name"
            )


def check_object(path: str, node: Any, supplied: Set[str]) -> None:
    """Check the config of an object; `supplied` names the arguments that the package passes."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{path}={node} has no _target_: choose one of the files in conf/{path.split('.')[0]}/"
        )
    settings = dict(node)
    target = locate(path, settings.pop("_target_"))
    check_arguments(path, settings, target, supplied)


def check_arguments(
    path: str, settings: Mapping[str, Any], target: Any, supplied: Set[str] = frozenset()
) -> None:
    """Check settings against the parameters of a class or function; see `check_object`."""
    annotations = dict(EXTRA_SETTINGS.get(path.partition(".")[0], {}))
    required, open_ended = set(), False
    # A function with **arguments would accept this name, too.
    for name in sorted(settings.keys() & supplied & INSTEAD.keys()):
        raise ConfigError(
            f"{path}.{name}={describe_value(settings[name])} isn't a setting: set {INSTEAD[name]}"
        )
    for name, parameter in parameters(target).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in supplied:
            annotations[name] = parameter.annotation
            if parameter.default is parameter.empty:
                required.add(name)
    if not target.__module__.startswith("resnet_sweep."):
        bounded = annotations.keys() & LIBRARY_PARAMETERS.keys()
        annotations |= {name: LIBRARY_PARAMETERS[name] for name in bounded}
    known = settings.keys() | annotations.keys() if open_ended else annotations.keys()
    check_names(f"{path}.", settings, known, required)
    for name, value in settings.items():
        check_value(f"{path}.{name}", value, annotations.get(name, Any))


def check_names(
    prefix: str, names: Iterable[str], known: Iterable[str], required: Set[str] = frozenset()
) -> None:
    """Raise ConfigError for an unknown name, or for a missing one that is required."""
    names, known = {*map(str, names)}, {*known}
    for name in sorted(names - known):
        raise ConfigError(unknown_name(prefix, name, known))
    for name in sorted(required - names):
        raise ConfigError(f"{prefix}{name} is missing: set it with {prefix}{name}=...")


def unknown_name(prefix: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown name, with the nearest known name, or with all."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"{prefix}{name} isn't a setting: did you mean {prefix}{near[0]}?"
    if not known:
        return f"{prefix}{name} isn't a setting, and {prefix.rstrip('.')} has none: leave it out"
    names = ", ".join(prefix + setting for setting in known)
    return f"{prefix}{name} isn't a setting: the settings are {names}"


def check_value(path: str, value: Any, annotation: Any) -> None:
    """Check a setting against an annotation: a dataclass, or a type that pydantic supports.

    An annotation that pydantic doesn't support allows all values.
    """
    if is_dataclass(annotation):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{path}={value} isn't a group of settings: set one with {path}.NAME=VALUE"
            )
        check_arguments(path, value, annotation)
    elif not is_valid(value, annotation):
        near = get_close_matches(str(value), literal_choices(annotation), n=1)
        if get_origin(annotation) in (list, tuple, Sequence) and is_valid([value], annotation):
            near = [f"{path}=[{describe_value(value)}]"]
        # The value itself isn't suggested: objective=seconds is a choice, but only in a list.
        hint = f" (did you mean {near[0]}?)" if near and near[0] != value else ""
        allowed = DESCRIPTIONS.get(path) or describe_type(annotation)
        if isinstance(value, float) and not math.isfinite(value):
            allowed = allowed.replace("a number", "a finite number")
        raise ConfigError(f"{path} is {describe_value(value)}: it must be {allowed}{hint}")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ConfigError(f"{path} is {value}: it must be between {-MAX_INTEGER} and {MAX_INTEGER}")


def is_valid(value: Any, annotation: Any) -> bool:
    """Validate a value with pydantic; the only conversion is from int to float."""
    try:
        # The value is converted to JSON, so that a list is valid for a tuple.
        _adapter(annotation).validate_json(json.dumps(value, default=str))
    except ValidationError:
        return False
    return True


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    if not isinstance(annotation, str):
        with suppress(PydanticUserError, NameError):
            return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))
    return TypeAdapter(Any)


def literal_choices(annotation: Any) -> list[str]:
    """Return the values of a Literal, also of one inside a union or list."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for argument in get_args(annotation) for choice in literal_choices(argument)]


def describe_type(annotation: Any) -> str:
    """Return an annotation as text, such as "a whole number >= 1, or null"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated and isinstance(arguments[-1], Doc):
        return arguments[-1].documentation
    if origin is Annotated:
        bounds = " and ".join(
            f"{sign} {getattr(constraint, attribute)}"
            for constraint in arguments[1:]
            for attribute, sign in BOUNDS.items()
            if hasattr(constraint, attribute)
        )
        return f"{describe_type(arguments[0])} {bounds}".rstrip()
    if origin in (Union, types.UnionType):
        # The types are sorted, so that "or null" comes last.
        ordered = sorted(arguments, key=lambda argument: argument is types.NoneType)
        return ", or ".join(map(describe_type, ordered))
    if origin is Literal:
        one_of = "one of " if len(arguments) > 1 else ""
        return f"{one_of}{', '.join(map(str, arguments))}"
    if origin in (list, tuple, Sequence):
        return "a list" + (
            f" with entries of this type: {describe_type(arguments[0])}" if arguments else ""
        )
    return TYPES.get(annotation, str(annotation))


def describe_value(value: Any) -> str:
    """Return a value as in an override; text is marked if it is empty or looks like a number."""
    if value == "":
        return "empty"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value):
        return f"the text '{value}'"
    return str(value)


def parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function, with evaluated annotations if possible."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    # An annotation that is a string may use a name that only a type checker imports.
    except NameError:
        return inspect.signature(target).parameters
    # Some functions of torch have no signature.
    except ValueError:
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}
