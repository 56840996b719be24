"""The signature of a run: a hash of all settings that affect what is trained."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

# Increment this number when a change to the package changes the results of runs.
NUMERICS = 1

# Settings of a sweep as a whole, which say nothing about one of its runs.
INCIDENTAL_OF_SWEEP = (
    *("baseline", "dry_run", "margin", "max_replicates", "objective", "reference", "replicates"),
    *("retry_failed", "reuse", "share_epochs", "sweep_filter", "zip"),
)
_INCIDENTAL_OF_TRAINER = ("compile", "device", "distributed", "precision", "resume", "threads")
# Settings and groups of settings that don't affect what is trained, only where and how. Instead of
# `trainer.precision`, the signature contains the precision that was chosen for the device.
# `trainer.compile` and `trainer.threads` change a result by rounding only. Another kind of device
# also changes the random numbers.
INCIDENTAL = frozenset(
    {"data.file", "data.root", "logger"}
    | {*INCIDENTAL_OF_SWEEP, *(f"trainer.{name}" for name in _INCIDENTAL_OF_TRAINER)}
)
_INCIDENTAL_GROUPS = tuple(f"{name}." for name in INCIDENTAL)

# The setting of the starting weights, and the name of their digest in `Record.inputs`.
INIT_FROM = "init_from"

# At these values, a setting has no effect, and the signature doesn't contain it. So the runs from
# before a setting existed keep their signatures.
NEUTRAL: Mapping[str, Any] = {
    INIT_FROM: None,
    "augmentation.cutmix.until": 1,
    "augmentation.cutmix_mixup.until": 1,
    "augmentation.mixup.until": 1,
    "metric": {},
    "model.initialization": "he",
    "trainer.backbone_lr_factor": 1,
    "trainer.freeze": [],
}

# The key of the order of the augmentation operations.
ORDER = "augmentation.order"
# The names of the inputs that are digests of the user's own files begin with this.
CODE = "code."


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested config with dotted names; a list is a single value."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def format_setting(value: Any) -> str:
    """Return the value of a setting as in an override: null, true, 0.1, [16, 32]."""
    return value if isinstance(value, str) else json.dumps(value)


def is_incidental(name: str) -> bool:
    """Return whether a setting doesn't affect what is trained; see `INCIDENTAL`."""
    return name in INCIDENTAL or name.startswith(_INCIDENTAL_GROUPS)


def effective_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that affect what is trained, by dotted names.

    They include the order of the augmentation operations if there are several.
    """
    settings = {
        name: normalize_number(value) for name, value in flatten(config) if not is_incidental(name)
    }
    for name, neutral in NEUTRAL.items():
        if name in settings and settings[name] == neutral:
            del settings[name]
    # The order of settings matters only in the augmentation.
    if len(order := augmentation_order(config)) > 1:
        settings[ORDER] = order
    return settings


def signed_settings(
    config: Mapping[str, Any], precision: str | None, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings and inputs that affect what is trained, by their names.

    The digest of the starting weights replaces the path in the setting `init_from`.

    Args:
        config: the composed config, with its interpolations resolved.
        precision: "float32" or "bfloat16", as chosen for the device; None if it is unknown.
        inputs: digests of what a run uses besides its config, see `Record.inputs`.
    """
    values = {"precision": precision or "", **inputs, "numerics": NUMERICS}
    return effective_settings(config) | values


def augmentation_order(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the augmentation operations, in their order."""
    operations = config.get("augmentation")
    return list(operations) if isinstance(operations, Mapping) else []


def normalize_number(value: Any) -> Any:
    """Return 1 for 1.0, because both train the same."""
    if isinstance(value, list):
        return [normalize_number(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sign(config: Mapping[str, Any], precision: str | None, inputs: Mapping[str, str]) -> str:
    """Return the signature of a run, 16 hexadecimal digits; see `signed_settings`."""
    content = json.dumps(signed_settings(config, precision, inputs), sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()


def code_file(name: str) -> str | None:
    """Return the file `mine/loss.py` of the input `code.mine/loss.py`; None for other names."""
    return name.removeprefix(CODE) if name.startswith(CODE) else None


def changed_files(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the user's own files with different digests in two mappings of inputs."""
    return [file for name in differences(one, other) if (file := code_file(name)) is not None]


def format_files(files: Sequence[str]) -> str:
    """Return a list of files as text, with at most three names."""
    listed, more = ", ".join(files[:3]), len(files) - 3
    return f"{listed} and {more} more" if more > 0 else listed


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Map each key with different values in two mappings to both; None is for a missing value."""
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }
