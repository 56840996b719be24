"""Whether the names and values of a config are right: before anything is built of them."""

import inspect
import math
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from resnet_sweep.composition.targets import locate
from resnet_sweep.errors import RequestError
from resnet_sweep.ranges import Range

# The groups that describe one object, with the arguments that the program supplies.
OBJECTS = {
    "model": {"num_classes"},
    "data": set(),
    "optim": {"params"},
    "schedule": {"lr", "epochs", "steps_per_epoch"},
    "loss": set(),
    "trainer": set(),
}
# The groups that describe any number of objects, each under a name, with the arguments that the
# program supplies to those that take them: attributes of the dataset, or the folder in which the
# command was started.
COLLECTIONS = {"augmentation": {"num_classes", "mean"}, "logger": {"folder"}}
# Settings outside of the groups.
Objective = Literal["val_acc", "val_loss", "distance_to_reference"]
Judged = Literal["val_acc", "val_loss", "distance_to_reference", "seconds", "parameters"]
SETTINGS = {
    "seed": Annotated[int, Range(minimum=0)],
    "replicates": Annotated[int, Range(minimum=1, maximum=1000)],
    "objective": Objective | list[Judged],
    "reference": str | None,
    "sweep_mode": Literal["run", "preview", "skip_failed"],
    "sweep_filter": str | None,
    "zip": list[str] | list[list[str]],
    "baseline": str | None,
    "reuse": bool,
}
# Settings of a group that its `_target_` doesn't take.
EXTRA = {"optim": {"decay_norm_and_bias": bool}}
# Arguments of classes that aren't ours, and so don't say what suits them.
FOREIGN = {
    "lr": Annotated[float, Range(above=0)],
    "momentum": Annotated[float, Range(minimum=0, below=1)],
    "weight_decay": Annotated[float, Range(minimum=0)],
    "betas": list[Annotated[float, Range(minimum=0, below=1)]],
    "eps": Annotated[float, Range(above=0)],
    "label_smoothing": Annotated[float, Range(minimum=0, below=1)],
    "nesterov": bool,
}
# Beyond them, a number is none that a training could have, nor one that all tools can read.
LARGEST_WHOLE, LARGEST = 2**63 - 1, 1e300
DEEPEST = 16
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_config(config: Mapping[str, Any]) -> None:
    """Hold the names in a resolved config against the parameters of the classes it names, and its
    values against their annotations.

    Raises:
        RequestError: one of them is wrong.
    """
    known = {*OBJECTS, *COLLECTIONS, "seed"}
    check_names("", config, {*known, *SETTINGS})
    for name, value in config.items():
        check_extent(name, value)
    for name in sorted(known - config.keys()):
        raise RequestError(f"{name} is missing: give it with {name}=...")
    for name, annotation in SETTINGS.items():
        # All but the seed came later than the first runs.
        if name in config:
            check_value(name, config[name], annotation)
    for group, supplied in OBJECTS.items():
        check_object(group, config[group], supplied, EXTRA.get(group, {}))
    if "lr" not in config["optim"]:
        # Whatever the optimizer takes for granted, the schedule starts from it.
        raise RequestError("optim.lr is missing: give it with optim.lr=...")
    for group, supplied in COLLECTIONS.items():
        node = config[group]
        if not isinstance(node, Mapping):
            raise RequestError(f"{group}={node} isn't a choice of that group")
        for name, entry in node.items():
            check_object(f"{group}.{name}", entry, supplied, {})


def check_extent(path: str, value: Any, depth: int = 1) -> None:
    """Refuse what a record of the run couldn't be read back with.

    Raises:
        RequestError: a number is too large, or lists and mappings are nested too deep.
    """
    if depth > DEEPEST:
        raise RequestError(f"{path} is nested too deep: choose a simpler value")
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check_extent(f"{path}.{name}", entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            check_extent(path, entry, depth + 1)
    elif isinstance(value, (int, float)):
        largest = LARGEST_WHOLE if isinstance(value, int) else LARGEST
        # Infinity is told by those who know what the number is for.
        if abs(value) > largest and value not in (math.inf, -math.inf):
            raise RequestError(f"{path} is a number beyond {largest:g}: choose a smaller one")


def check_object(path: str, node: Any, supplied: set[str], extra: Mapping[str, Any]) -> None:
    """Check a part of a config that describes an object.

    Args:
        path: the part's name.
        node: the part.
        supplied: parameters that the program supplies.
        extra: further settings, with their annotations.

    Raises:
        RequestError: it names no class, or a parameter that the class hasn't, or gives a value
            that doesn't suit, or leaves out a parameter that must be given.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise RequestError(
            f"{path}={node} has no _target_: choose one of the files in conf/{path.split('.')[0]}/"
        )
    target = locate(path, node["_target_"])
    annotations = dict(extra)
    required, open_ended = set(), False
    for name, parameter in parameters(target).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            open_ended = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in supplied:
            annotations[name] = parameter.annotation
            if parameter.default is parameter.empty:
                required.add(name)
    if not target.__module__.startswith("resnet_sweep."):
        annotations |= {name: FOREIGN[name] for name in annotations.keys() & FOREIGN.keys()}
    if not open_ended:
        check_names(f"{path}.", node.keys() - {"_target_"}, annotations)
    for name in sorted(required - node.keys()):
        raise RequestError(f"{path}.{name} is missing: give it with {path}.{name}=...")
    for name, value in node.items():
        if name != "_target_":
            check_value(f"{path}.{name}", value, annotations.get(name, Any))


def check_fields(path: str, node: Any, kind: type) -> None:
    """Check a part of a config that describes a dataclass of ours.

    Raises:
        RequestError: it has a setting that the dataclass hasn't, or gives a value that doesn't
            suit.
    """
    if not isinstance(node, Mapping):
        raise RequestError(f"{path}={node} has no settings: give them with {path}.NAME=...")
    annotations = get_type_hints(kind, include_extras=True)
    check_names(f"{path}.", node, annotations)
    for name, value in node.items():
        check_value(f"{path}.{name}", value, annotations[name])


def check_names(prefix: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name that isn't known, and offer the nearest that is.

    Raises:
        RequestError: of the first unknown one.
    """
    known = {*known}
    for name in sorted(names):
        if name not in known:
            raise RequestError(unknown_name(prefix, str(name), known))


def unknown_name(prefix: str, name: str, known: Iterable[str]) -> str:
    """A sentence on a name that isn't known, with the nearest that is."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    if near:
        return f"{prefix}{name} isn't a setting: did you mean {prefix}{near[0]}?"
    there = ", ".join(prefix + each for each in known) or "none"
    return f"{prefix}{name} isn't a setting: there is {there}"


def check_value(path: str, value: Any, annotation: Any) -> None:
    """Hold a value against an annotation; one of a kind unknown here lets everything pass.

    Raises:
        RequestError: it doesn't suit.
    """
    if is_dataclass(annotation):
        check_fields(path, value, annotation)
    elif not suits(value, annotation):
        shown = "null" if value is None else value
        if isinstance(value, float) and not math.isfinite(value):
            shown = f"{value}, which isn't finite"
        elif isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value):
            shown = f"the text '{value}'"
        near = get_close_matches(str(value), choices(annotation), n=1)
        # One that is right only in a list is near itself.
        hint = f"; did you mean {near[0]}?" if near and near[0] != value else ""
        raise RequestError(f"{path} must be {describe(annotation)}, but is {shown}{hint}")


def suits(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotation's kind and within its range."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [entry for entry in arguments[1:] if isinstance(entry, Range)]
        return suits(value, arguments[0]) and all(value in entry for entry in ranges)
    if origin in (Union, types.UnionType):
        return any(suits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (list, tuple, Sequence):
        entry = arguments[0] if arguments else Any
        return isinstance(value, list) and all(suits(each, entry) for each in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation in (None, types.NoneType):
        return value is None
    return True


def choices(annotation: Any) -> list[str]:
    """What an annotation lets one choose from, in a Literal or a union with one."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for argument in get_args(annotation) for choice in choices(argument)]


def describe(annotation: Any) -> str:
    """An annotation in words: "a whole number at least 1, or null"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *map(str, arguments[1:])])
    if origin in (Union, types.UnionType):
        # "Or null" reads better at the end.
        ordered = sorted(arguments, key=lambda argument: argument is types.NoneType)
        return ", or ".join(map(describe, ordered))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, tuple, Sequence):
        return "a list" + (f", each entry {describe(arguments[0])}" if arguments else "")
    if annotation in (None, types.NoneType):
        return "null"
    return WORDS.get(annotation, str(annotation))


def parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function, with their annotations where they can be had."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    # Annotations as text may use names that only a type checker imports.
    except NameError:
        return inspect.signature(target).parameters
    # Some functions of torch tell nothing of their parameters.
    except ValueError:
        return {"settings": inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)}
