"""What makes two runs the same run: a hash of the training that was asked for."""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

# Raised when a change of ours changes the results of a run.
NUMERICS = 1

# Settings (or groups of them) that say where and how a run is carried out, not what is trained.
# `trainer.precision` is among them because the precision that it comes to counts instead;
# `trainer.compile`, like device and threads, because it changes the last bits at the most.
INCIDENTAL = frozenset(
    {
        "baseline",
        "data.root",
        "logger",
        "objective",
        "reference",
        "replicates",
        "reuse",
        "sweep_filter",
        "sweep_mode",
        "trainer.compile",
        "trainer.device",
        "trainer.distributed",
        "trainer.precision",
        "trainer.resume",
        "trainer.threads",
        "zip",
    }
)
_INCIDENTAL_GROUPS = tuple(f"{name}." for name in INCIDENTAL)

# A setting that came later, with the value at which a run is what it was before: at that value
# it doesn't count, so that older runs keep their signatures. Entries are never removed.
NEUTRAL: dict[str, Any] = {
    "model.attention": None,
    "model.stem_width": None,
    "model.stochastic_depth": 0.0,
    "trainer.clip_grad_norm": None,
    "trainer.early_stopping.epoch": None,
    "trainer.early_stopping.metric": "val_acc",
    "trainer.early_stopping.min_delta": 0,
    "trainer.early_stopping.patience": None,
    "trainer.ema_decay": None,
    "trainer.progressive_resizing": None,
    "trainer.sync_batch_norm": True,
}
# The order of the operations on batches, by this name, and what there was before it counted.
ORDER = "augmentation.order"
NEUTRAL_ORDERS = ([], ["random_crop", "random_flip"])


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting of a nested config by its dotted name; lists count as values."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def typed(value: Any) -> str:
    """The value of a setting as one types it: null, true, 0.1, [16, 32]."""
    return value if isinstance(value, str) else json.dumps(value)


def is_incidental(name: str) -> bool:
    """Whether a setting says where and how a run is carried out, not what is trained."""
    return name in INCIDENTAL or name.startswith(_INCIDENTAL_GROUPS)


def relevant(config: Mapping[str, Any], precision: str, fingerprint: str) -> dict[str, Any]:
    """All that decides what is trained, flat.

    Args:
        config: the resolved config of a run.
        precision: what `trainer.precision` comes to on the device.
        fingerprint: of the data.
    """
    settings = {
        name: plain(value)
        for name, value in flatten(config)
        if not is_incidental(name) and not (name in NEUTRAL and value == NEUTRAL[name])
    }
    # Unlike other settings, operations on batches are different in another order.
    order = augmentation_order(config)
    if order not in NEUTRAL_ORDERS:
        settings[ORDER] = order
    return settings | {"precision": precision, "data": fingerprint, "numerics": NUMERICS}


def augmentation_order(config: Mapping[str, Any]) -> list[str]:
    """The names of the operations on training batches, as they are applied."""
    operations = config.get("augmentation")
    return list(operations) if isinstance(operations, Mapping) else []


def plain(value: Any) -> Any:
    """The same value for 1 and 1.0, which train the same."""
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sign(config: Mapping[str, Any], precision: str, fingerprint: str) -> str:
    """The signature of a run, 16 hexadecimal digits; its arguments are those of `relevant`."""
    content = json.dumps(relevant(config, precision, fingerprint), sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two flat mappings differ, with both values; a missing one is None."""
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }
