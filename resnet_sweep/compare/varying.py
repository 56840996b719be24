"""What tells runs apart."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.runs.signature import NEUTRAL, ORDER


class Absent:
    """Stands for the value of a setting that a run hasn't got."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


def value_of(settings: Mapping[str, Any], name: str) -> Any:
    """A setting of a run; one that came later than the run is at its neutral default."""
    return settings.get(name, NEUTRAL.get(name, ABSENT))


def differing(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The names whose values aren't all the same, each with the value in every mapping."""
    # Runs have most settings in common, so that those are seen only once.
    values: defaultdict[str, dict[str, None]] = defaultdict(dict)
    counts: defaultdict[str, int] = defaultdict(int)
    for mapping in mappings:
        for name, value in mapping.items():
            # True isn't 1 in a config, though Python says so.
            values[name][repr(value)] = None
            counts[name] += 1
    for name, count in counts.items():
        if count < len(mappings):
            values[name][repr(value_of({}, name))] = None
    return {
        name: [value_of(mapping, name) for mapping in mappings]
        for name, found in values.items()
        if len(found) > 1
    }


def columns(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    """The choices and settings that tell runs apart at a glance, with their values in every run.

    A setting that follows from the choice made in its group is left out, as is the fingerprint of
    the data if it follows from their settings.
    """
    settings = differing([entry.settings for entry in entries])
    groups = {_group(name) for name in settings if "." in name or name == "fingerprint"}
    choices = {
        name: values
        for name, values in differing([entry.choices for entry in entries]).items()
        if name in groups
    }
    kept = {
        name: values
        for name, values in settings.items()
        if name not in ("fingerprint", ORDER)
        and not (_group(name) in choices and _follows(values, [choices[_group(name)]]))
    } | choices
    if ORDER in settings and not any(name.startswith("augmentation") for name in kept):
        kept[ORDER] = settings[ORDER]
    if "fingerprint" in settings and ABSENT not in settings["fingerprint"]:
        data = [values for name, values in kept.items() if _group(name) == "data"]
        if not _follows(settings["fingerprint"], data):
            kept["fingerprint"] = settings["fingerprint"]
    # The seed tells least, since most often there is every seed of everything.
    return dict(sorted(kept.items(), key=lambda item: (item[0] == "seed", item[0])))


def variants(entries: Sequence[Entry], seed: bool = False) -> dict[str, list[Any]]:
    """As `columns`, but with the experiments in place of what they set.

    What was typed beside the experiments stays.

    Args:
        entries: of the runs.
        seed: keep the seed, if it varies.
    """
    found = columns(entries)
    if not seed:
        found.pop("seed", None)
    experiments = [entry.choices.get("experiment", ABSENT) for entry in entries]
    if len(set(experiments)) < 2:
        return found
    typed = {
        word.partition("=")[0].lstrip("+~") for entry in entries for word in entry.record.overrides
    }
    return {"experiment": experiments} | {
        name: values
        for name, values in found.items()
        if name in ("seed", *typed) or not _follows(values, [experiments])
    }


def _group(name: str) -> str:
    return "data" if name == "fingerprint" else name.partition(".")[0]


def _follows(values: Iterable[Any], reasons: Sequence[Sequence[Any]]) -> bool:
    """Whether the reasons' values in a run decide the value there."""
    decided: dict[tuple[str, ...], str] = {}
    return bool(reasons) and all(
        decided.setdefault(tuple(map(repr, reason)), repr(value)) == repr(value)
        for value, *reason in zip(values, *reasons, strict=True)
    )
