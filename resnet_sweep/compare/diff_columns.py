"""The settings and choices that differ between runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_sweep.compare.format import shown, shown_briefly
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.signature import ORDER

# Stands for the value of a setting that a run doesn't have.
MISSING: Any = object()


def differing(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the names whose values aren't all the same, each with its value in every mapping."""
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    columns = {name: [mapping.get(name, MISSING) for mapping in mappings] for name in names}
    # By their texts, because True isn't 1 in a config, though they are equal in Python.
    return {n: values for n, values in columns.items() if len({repr(v) for v in values}) > 1}


def diff_columns(runs: Sequence[LoadedRun]) -> dict[str, list[Any]]:
    """Return the choices and settings that differ between runs, with their values in every run.

    A setting that follows from the choice made in its group is left out, and so is the fingerprint
    of the data if it follows from their settings.
    """
    settings = differing([run.settings for run in runs])
    groups = {_group(name) for name in settings if "." in name or name == "fingerprint"}
    choices = {
        name: values
        for name, values in differing([run.choices for run in runs]).items()
        if name in groups
    }
    columns = {
        name: values
        for name, values in settings.items()
        if name not in ("fingerprint", ORDER)
        and not (_group(name) in choices and _follows(values, [choices[_group(name)]]))
    } | choices
    if ORDER in settings and not any(name.startswith("augmentation") for name in columns):
        columns[ORDER] = settings[ORDER]
    if "fingerprint" in settings and MISSING not in settings["fingerprint"]:
        data = [values for name, values in columns.items() if _group(name) == "data"]
        if not _follows(settings["fingerprint"], data):
            columns["fingerprint"] = settings["fingerprint"]
    # The seed comes last, because a sweep usually has every seed of everything.
    return dict(sorted(columns.items(), key=lambda item: (item[0] == "seed", item[0])))


def variants(runs: Sequence[LoadedRun], seed: bool = False) -> dict[str, list[Any]]:
    """Return `diff_columns` with the experiments in place of the settings that they set.

    Settings that were typed beside the experiments are kept, and the seed if `seed` is true.
    """
    columns = diff_columns(runs)
    if not seed:
        columns.pop("seed", None)
    experiments = [run.choices.get("experiment", MISSING) for run in runs]
    if len(set(experiments)) < 2:
        return columns
    typed = {
        override.partition("=")[0].lstrip("+~") for run in runs for override in run.record.overrides
    }
    return {"experiment": experiments} | {
        name: values
        for name, values in columns.items()
        if name in ("seed", *typed) or not _follows(values, [experiments])
    }


def cells(columns: Mapping[str, Sequence[Any]], missing: str = "") -> list[list[str]]:
    """Return columns of values as text for a table, each with its name first."""
    return [
        [shown(name), *shown_briefly([missing if value is MISSING else value for value in values])]
        for name, values in columns.items()
    ]


def row(columns: Mapping[str, Sequence[Any]], at: int) -> dict[str, Any]:
    """Return the values at a position of all columns that have one there."""
    values = {name: column[at] for name, column in columns.items()}
    return {name: value for name, value in values.items() if value is not MISSING}


def _group(name: str) -> str:
    return "data" if name == "fingerprint" else name.partition(".")[0]


def _follows(values: Iterable[Any], reasons: Sequence[Sequence[Any]]) -> bool:
    """Return whether a run's values of `reasons` determine its value in `values`."""
    determined: dict[tuple[str, ...], str] = {}
    return bool(reasons) and all(
        determined.setdefault(tuple(map(repr, reason)), repr(value)) == repr(value)
        for value, *reason in zip(values, *reasons, strict=True)
    )
