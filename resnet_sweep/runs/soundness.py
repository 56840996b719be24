"""Whether what `run.json` says is sound: it may be damaged, or be somebody else's."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

# Configs are nested four deep.
DEEPEST = 32
_ENCODER = json.JSONEncoder(sort_keys=True)


class DamageError(ValueError):
    """A file of a run directory can't be read; its message says why, as a clause."""


def digest_record(values: Mapping[str, Any]) -> str:
    """A digest of a record, by which damage to it is found; `digest` itself doesn't count."""
    # JSON makes text of every key, so it is what has been through it that is put in order.
    return _digest(json.loads(json.dumps(dict(values))))


def _digest(values: Mapping[str, Any]) -> str:
    """The digest of a record that was read from JSON."""
    content = _ENCODER.encode({name: values[name] for name in values if name != "digest"})
    return blake2b(content.encode(), digest_size=8).hexdigest()


def digest_file(path: Path) -> str | None:
    """A digest of a file; None if it can't be read."""
    try:
        return blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None


def check_record(values: Any) -> None:
    """Hold what `run.json` says against the kinds that `Record` has.

    Raises:
        DamageError: it isn't sound.
    """
    if not isinstance(values, dict):
        raise DamageError(f"run.json holds {_kind(values)} instead of a mapping")
    _check_values(values)
    for name, (wanted, suits) in _FIELDS.items():
        if name in values and not suits(values[name]):
            raise DamageError(f"{name} in run.json isn't {wanted}, but {_kind(values[name])}")
    if "signature" not in values:
        raise DamageError("run.json has no signature")
    # Records of the first versions have none.
    if values.get("digest") is not None and values["digest"] != _digest(values):
        raise DamageError("run.json isn't what the run wrote, by its digest")


def _check_values(values: Any) -> None:
    """Refuse what JSON can say, but nothing could be done with.

    Raises:
        DamageError: it is nested too deep, or has an infinite number.
    """
    # Level by level, since a function call for each of many values takes longer than the rest.
    level, depth = [values], 0
    while level:
        if depth > DEEPEST:
            raise DamageError("run.json is nested too deep")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, (int, float)) and not -1e300 < value < 1e300:
                raise DamageError("run.json has a number that is too large")
        level, depth = below, depth + 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_time(value: Any) -> bool:
    try:
        return value is None or math.isfinite(datetime.fromisoformat(value).timestamp())
    except (ValueError, TypeError, OverflowError, OSError):
        return False


def _are_figures(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(map(_is_number, value.values()))
        and _is_whole(value.get("epoch"))
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _or_null(suits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or suits(value)


_FIELDS = {
    **dict.fromkeys(("signature", "state", "reason"), ("text", _is_text)),
    **dict.fromkeys(
        ("host", "device", "precision", "git_commit", "fingerprint"), ("text", _or_null(_is_text))
    ),
    **dict.fromkeys(("parameters", "threads", "ranks", "seed"), ("a whole number", _is_whole)),
    **dict.fromkeys(("gap", "seconds"), ("a number", _is_number)),
    **dict.fromkeys(("started", "ended"), ("a time", _is_time)),
    **dict.fromkeys(("best", "final"), ("a mapping to numbers", _are_figures)),
    **dict.fromkeys(("overrides", "flags", "notes"), ("a list of texts", _are_texts)),
    **dict.fromkeys(("choices", "versions", "digests"), ("a mapping to texts", _is_text_mapping)),
    "config": ("a mapping", _is_mapping),
    "lease": ("a mapping", _or_null(_is_mapping)),
}
