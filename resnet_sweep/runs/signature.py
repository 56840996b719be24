"""The signature of a run: a hash of the training that was asked for."""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

# Counted up by a change of this package that changes the results of a run.
NUMERICS = 1

_INCIDENTAL_OF_SWEEP = ("baseline", "replicates", "retry_failed", "reuse", "sweep_filter", "zip")
_INCIDENTAL_OF_TRAINER = ("compile", "device", "distributed", "precision", "resume", "threads")
# Settings (or groups of them) that say where and how a run is trained, not what is trained.
# `trainer.precision` is among them because the precision that it resolves to counts instead;
# `trainer.compile`, like device and threads, because it changes the last bits at the most.
INCIDENTAL = frozenset(
    {"data.root", "dry_run", "logger", "objective", "reference"}
    | {*_INCIDENTAL_OF_SWEEP, *(f"trainer.{name}" for name in _INCIDENTAL_OF_TRAINER)}
)
_INCIDENTAL_GROUPS = tuple(f"{name}." for name in INCIDENTAL)

# The name under which the order of the operations of augmentation counts.
ORDER = "augmentation.order"


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested config by their dotted names; a list is a value."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def format_setting(value: Any) -> str:
    """Return the value of a setting as it is typed: null, true, 0.1, [16, 32]."""
    return value if isinstance(value, str) else json.dumps(value)


def is_incidental(name: str) -> bool:
    """Return whether a setting says where and how a run is trained, not what is trained."""
    return name in INCIDENTAL or name.startswith(_INCIDENTAL_GROUPS)


def signed_settings(config: Mapping[str, Any], precision: str, fingerprint: str) -> dict[str, Any]:
    """Return everything that decides what is trained, flat.

    Args:
        config: resolved.
        precision: what `trainer.precision` resolves to on the device.
        fingerprint: identifies the data.
    """
    settings = {
        name: normalize_number(value) for name, value in flatten(config) if not is_incidental(name)
    }
    # The order of other settings has no effect.
    if len(order := augmentation_order(config)) > 1:
        settings[ORDER] = order
    return settings | {"precision": precision, "data": fingerprint, "numerics": NUMERICS}


def augmentation_order(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the operations on training batches, in the order of their application."""
    operations = config.get("augmentation")
    return list(operations) if isinstance(operations, Mapping) else []


def normalize_number(value: Any) -> Any:
    """Return the same value for 1 and 1.0, which train the same."""
    if isinstance(value, list):
        return [normalize_number(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sign(config: Mapping[str, Any], precision: str, fingerprint: str) -> str:
    """Return the signature of a run, 16 hexadecimal digits; for the arguments see `relevant`."""
    content = json.dumps(signed_settings(config, precision, fingerprint), sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return where two flat mappings differ, with both values; a missing one is None."""
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }
