"""Starting weights of a run: those of another run, of a file, or of a library."""

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.compare.collection import find_runs, logged_runs
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.config.check import parameters
from resnet_sweep.config.instantiate import instantiate, locate
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import NAME, Record
from resnet_sweep.runs.signature import INIT_FROM, effective_settings
from resnet_sweep.training.checkpoint import digest, read_best

# The value of `init_from` that stands for the weights of the library that the model comes from.
PRETRAINED = "pretrained"
# At most this many names are listed in an error message.
MAX_LISTED = 3


class MissingWeightsError(ConfigError):
    """The run or the file that `init_from` names doesn't exist."""


@dataclass(frozen=True)
class StartingWeights:
    """The weights that a run starts from.

    Attributes:
        tensors: by their names in the model. The other weights of the model keep their random
            values.
        digest: digest of these tensors.
        notes: remarks about them, one sentence each.
    """

    tensors: Mapping[str, Tensor]
    digest: str
    notes: list[str]


@dataclass(frozen=True)
class _Source:
    """Weights by name, and the names of the classes of their network, or None if unknown."""

    tensors: dict[str, Tensor]
    classes: list[str] | None = None


def read_starting_weights(
    config: Mapping[str, Any], dataset: Dataset, model: nn.Module
) -> StartingWeights:
    """Read the weights that `init_from` names, and check them against the model.

    The weights of a classifier for another number of classes are left out.

    Args:
        config: the config of the run; its `init_from` isn't None.
        dataset: the data of the run.
        model: the model of the run, on any device.

    Raises:
        MissingWeightsError: what `init_from` names doesn't exist.
        ConfigError: it can't be read, or doesn't fit the model.
    """
    setting = str(config[INIT_FROM])
    source = _read(setting, config, dataset)
    classifier = _other_classifier(source.tensors, model, dataset.num_classes)
    tensors = {name: source.tensors[name] for name in sorted(source.tensors.keys() - classifier)}
    _check_fit(setting, tensors, model, classifier)
    notes = []
    if classifier:
        count = len(source.tensors[min(classifier)])
        notes.append(
            f"init_from={setting} has a classifier for {count} classes, so "
            f"{_list(classifier)} started from random weights"
        )
    elif source.classes not in (None, dataset.classes):
        notes.append(
            f"init_from={setting} has a classifier for other classes, whose number is the same, so "
            "the run started from its weights, too"
        )
    return StartingWeights(tensors, digest(tensors), notes)


def absolute(setting: str) -> str:
    """Return the value of `init_from` with an absolute path."""
    return setting if _is_pretrained(setting) else os.path.abspath(setting)


def find_earlier(directory: Path, config: Mapping[str, Any]) -> Record | None:
    """Return the record of a run with the same settings in a run or sweep directory.

    Its starting weights are those that `config` names, even if they no longer exist.
    """
    if not directory.is_dir():
        return None
    settings = effective_settings(config)
    for run in find_runs([directory]):
        if (
            isinstance(run, LoadedRun)
            and INIT_FROM in run.record.inputs
            and effective_settings(run.record.config) == settings
        ):
            return run.record
    return None


def _is_pretrained(setting: str) -> bool:
    return setting.partition(":")[0] == PRETRAINED


def _read(setting: str, config: Mapping[str, Any], dataset: Dataset) -> _Source:
    if _is_pretrained(setting):
        return _read_pretrained(setting, json.dumps(config["model"]), dataset.channels)
    path = Path(setting)
    try:
        if not path.is_dir():
            status = path.stat()
            return _read_file(setting, status.st_mtime_ns, status.st_size)
        if not (path / NAME).exists():
            raise ConfigError(
                f"init_from={setting} is a folder without {NAME}: name a run directory or a "
                "checkpoint file"
            )
    # A null character in the path raises a ValueError.
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        if setting in logged_runs():
            raise ConfigError(
                f"init_from={setting} is a run of the training log, which has no weights: name "
                "another run"
            ) from error
        raise MissingWeightsError(
            f"init_from={setting} doesn't exist: name a run directory, a checkpoint file, or "
            "pretrained"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"init_from={setting} can't be read ({error.strerror}): name another run or file"
        ) from error
    checkpoint = read_best(path, Record.read(path))
    return _Source(checkpoint["model"], checkpoint.get("data", {}).get("classes"))


# This is cached, because the jobs of a sweep often start from the same weights.
@functools.lru_cache(maxsize=2)
def _read_file(setting: str, modified: int, size: int) -> _Source:
    """Read a checkpoint of this program, or another file with tensors by name.

    Args:
        setting: the path.
        modified, size: of the file, so that a changed file is read again.
    """
    try:
        content = torch.load(setting, map_location="cpu", weights_only=True)
    # A file of another kind can raise errors of nearly any type.
    except Exception as error:
        raise ConfigError(
            f"init_from={setting} isn't a checkpoint that can be read safely "
            f"({type(error).__name__}): name a file that torch.save wrote, with nothing but "
            "tensors and plain values"
        ) from error
    if isinstance(content, dict) and "digest" in content:
        stored = content.pop("digest")
        if stored != digest(content):
            raise ConfigError(
                f"init_from={setting} is damaged (its content doesn't match its digest): restore "
                "it, or name another checkpoint"
            )
    classes = None
    if isinstance(content, dict) and isinstance(content.get("data"), dict):
        classes = content["data"].get("classes")
    if isinstance(content, dict):
        averages = content.get("emas")
        # The first averaged weights of a run are those that the run evaluates.
        evaluated = [*averages.values()][:1] if isinstance(averages, dict) else []
        candidates = [*evaluated, content.get("model"), content.get("state_dict")]
        content = next((found for found in candidates if isinstance(found, dict)), content)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise ConfigError(
            f"init_from={setting} has no weights: name a checkpoint of a run, or a file with the "
            "state_dict of a model, alone or under the key model or state_dict"
        )
    return _Source(dict(content), classes)


@functools.lru_cache(maxsize=2)
def _read_pretrained(setting: str, model: str, channels: int) -> _Source:
    """Return the weights of a library for a model.

    Args:
        setting: `pretrained`, or `pretrained:NAME`.
        model: the model's config, as JSON.
        channels: number of channels of an image.
    """
    node = json.loads(model)
    known = parameters(locate("model", node["_target_"]))
    if "pretrained" not in known:
        raise ConfigError(
            f"init_from={setting} needs a model of torchvision or timm, but the model is "
            f"{node['_target_']}: choose model=torchvision_resnet18 or model=timm_resnet18, or "
            "name a run"
        )
    supplied: dict[str, Any] = {"pretrained": setting.partition(":")[2] or "DEFAULT"}
    if "in_channels" in known:
        supplied["in_channels"] = channels
    # The network has the classes of its weights, so this number of classes has no effect.
    network: nn.Module = instantiate("init_from", node, num_classes=1, **supplied)
    return _Source(network.state_dict())


def _other_classifier(
    tensors: Mapping[str, Tensor], model: nn.Module, num_classes: int
) -> set[str]:
    """Return the names of the tensors that differ from the model's in the number of classes only.

    These are all tensors with other shapes, or none if another dimension differs somewhere.
    """
    found = {
        name: (tuple(tensors[name].shape), tuple(weight.shape))
        for name, weight in model.state_dict().items()
        if name in tensors and tensors[name].shape != weight.shape
    }
    counts = {theirs[:1] for theirs, _ in found.values()}
    fits = all(
        theirs and ours[:1] == (num_classes,) and theirs[1:] == ours[1:]
        for theirs, ours in found.values()
    )
    return {*found} if fits and len(counts) == 1 else set()


def _check_fit(
    setting: str, tensors: Mapping[str, Tensor], model: nn.Module, classifier: set[str]
) -> None:
    """Raise ConfigError if tensors, apart from the classifier, aren't those of the model."""
    own = model.state_dict()
    clauses = []
    if missing := own.keys() - tensors.keys() - classifier:
        clauses.append(f"it lacks {_list(missing)}")
    if unexpected := tensors.keys() - own.keys():
        clauses.append(f"the model lacks {_list(unexpected)}")
    shapes = [
        f"{name} has the shape {tuple(tensors[name].shape)} instead of {tuple(weight.shape)}"
        for name, weight in own.items()
        if name in tensors and tensors[name].shape != weight.shape
    ]
    clauses += shapes[:MAX_LISTED]
    if len(shapes) > MAX_LISTED:
        clauses.append(f"{len(shapes) - MAX_LISTED} more shapes differ")
    if clauses:
        raise ConfigError(
            f"init_from={setting} doesn't fit the model ({'; '.join(clauses)}): choose the model "
            "that these weights belong to, or other weights"
        )


def _list(names: Iterable[str]) -> str:
    """Return the first names, in alphabetical order, and the number of the others."""
    ordered = sorted(names)
    shown = ordered[:MAX_LISTED]
    if len(ordered) > MAX_LISTED:
        shown.append(f"{len(ordered) - MAX_LISTED} more")
    return " and ".join([*filter(None, [", ".join(shown[:-1])]), shown[-1]])
