"""What a study is, so that a command that asks for another one is told."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import distribution_to_json

from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.signature import differences, relevant
from resnet_sweep.sweeps.study.composer import Composer, Replicate
from resnet_sweep.sweeps.study.space import Space

# Of a study in its storage.
KEY, DIRECTORY, SEEDED = "resnet_sweep", "directory", "seeded"
MOST_TOLD = 5


def define(composer: Composer, first: Replicate) -> dict[str, Any]:
    """What must be the same whenever a study goes on.

    Args:
        composer: of the study.
        first: a run at the first corner of the space.
    """
    planned = first.planned
    settings = relevant(planned.config, planned.precision or "", planned.fingerprint or "")
    searched = {key.lstrip("+") for key in composer.space.distributions}
    return {
        "objective": [each.name for each in composer.objectives],
        "reference": composer.whole["reference"],
        "replicates": composer.replicates,
        "space": describe(composer.space),
        "settings": {name: value for name, value in settings.items() if name not in searched},
    }


def describe(space: Space) -> dict[str, Any]:
    """A search space as JSON says it."""
    return {
        key: json.loads(distribution_to_json(each)) for key, each in space.distributions.items()
    }


def compare(study: optuna.Study, directions: Sequence[str], asked: Mapping[str, Any]) -> None:
    """See that a study that there is already is the one that is asked for.

    Raises:
        RequestError: it isn't; with where it differs.
    """
    there = [each.name.lower() for each in study.directions]
    which = f"the study {shown(study.study_name)}"
    other = "choose another hydra.sweep.dir or hydra.sweeper.study_name"
    if there != list(directions):
        raise RequestError(
            f"{which} is to {_listed(there)} and not to {_listed(directions)}: {other}"
        )
    found = study.user_attrs.get(KEY)
    if not isinstance(found, Mapping):
        raise RequestError(f"{which} was made by another program: {other}")
    # As JSON has it, where lists and tuples are the same.
    asked = json.loads(json.dumps(asked))
    for name, what in (("space", "searches another space"), ("settings", "has other settings")):
        told = [
            f"{shown(key)}: {_told(one)} there, {_told(another)} here"
            for key, (one, another) in differences(found.get(name, {}), asked[name]).items()
        ]
        if told:
            raise RequestError(f"{which} {what} ({'; '.join(told[:MOST_TOLD])}): {other}")
    for name in ("objective", "reference", "replicates"):
        if found.get(name) != asked[name]:
            raise RequestError(
                f"{which} has {name}={_told(found.get(name))} and not {_told(asked[name])}: {other}"
            )


def _listed(directions: Sequence[str]) -> str:
    return " and ".join(directions)


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("attributes"), Mapping):
        inner = value["attributes"]
        if "choices" in inner:
            return shown(inner["choices"])
        log = " by its logarithm" if inner.get("log") else ""
        return f"{shown(inner.get('low'))} to {shown(inner.get('high'))}{log}"
    return "nothing" if value is None else shown(value)
