"""The settings and choices that differ between runs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_sweep.compare.format import distinct_texts, safe_text
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.signature import INIT_FROM, NEUTRAL, ORDER


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


# Stands for the value of a setting that a run doesn't have.
MISSING: Any = _Missing()


def find_differences(mappings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the names whose values aren't the same in all mappings, with the value in each."""
    names = dict.fromkeys(name for mapping in mappings for name in mapping)
    columns = {name: [mapping.get(name, MISSING) for mapping in mappings] for name in names}
    # repr() is compared because true and 1 are different settings, but are equal in Python.
    return {n: values for n, values in columns.items() if len({repr(v) for v in values}) > 1}


def differing_settings(runs: Sequence[LoadedRun]) -> dict[str, list[Any]]:
    """Return the settings that differ between runs, with the value of each run, or MISSING.

    A precision or an input that a run doesn't have isn't a difference: it is unknown in a logged
    run, and a run that doesn't use a file of the user differs in another setting, too. The settings
    in `NEUTRAL` have their values in the config, and `init_from` those of `weight_names`.
    """
    optional = {"precision", *(name for run in runs for name in run.inputs)}
    found = {
        name: values
        for name, values in find_differences([run.settings for run in runs]).items()
        if name not in optional or len({value for value in values if value is not MISSING}) > 1
    }
    for name in found.keys() & NEUTRAL.keys():
        found[name] = [run.config.get(name, MISSING) for run in runs]
    return found | {INIT_FROM: weight_names(runs)} if INIT_FROM in found else found


def diff_columns(runs: Sequence[LoadedRun]) -> dict[str, list[Any]]:
    """Return the choices and settings that differ between runs, with the value of each run.

    A setting is left out if the choice of its group determines it, and the data's fingerprint is
    left out if the data's settings determine it.
    """
    settings = differing_settings(runs)
    groups = {_group(name) for name in settings if "." in name or name == "fingerprint"}
    choices = {
        name: values
        for name, values in find_differences([run.choices for run in runs]).items()
        if name in groups
    }
    columns = {
        name: values
        for name, values in settings.items()
        if name not in ("fingerprint", ORDER)
        and not (_group(name) in choices and _is_determined(values, [choices[_group(name)]]))
    } | choices
    if ORDER in settings and not any(name.startswith("augmentation") for name in columns):
        columns[ORDER] = settings[ORDER]
    if "fingerprint" in settings and MISSING not in settings["fingerprint"]:
        data = [values for name, values in columns.items() if _group(name) == "data"]
        if not _is_determined(settings["fingerprint"], data):
            columns["fingerprint"] = settings["fingerprint"]
    # The seed comes last, because a sweep usually repeats every combination with each seed.
    return dict(sorted(columns.items(), key=lambda item: (item[0] == "seed", item[0])))


def weight_names(runs: Sequence[LoadedRun]) -> list[Any]:
    """Return the paths of the runs' starting weights, or MISSING for random weights.

    A digest follows the path if runs with the same path started from different weights.
    """
    digests = [run.settings.get(INIT_FROM, MISSING) for run in runs]
    paths = [run.config.get(INIT_FROM) for run in runs]
    first = {digest: path for digest, path in zip(reversed(digests), reversed(paths), strict=True)}
    unique = len({*map(repr, first.values())}) == len(first)
    return [
        digest
        if digest is MISSING
        else (first[digest] if unique else f"{first[digest]} ({digest[:8]})")
        for digest in digests
    ]


def variants(runs: Sequence[LoadedRun], seed: bool = False) -> dict[str, list[Any]]:
    """Return `diff_columns` with the experiment in place of the settings that it determines.

    Settings that were given as overrides are kept. The seed is kept if `seed` is true.
    """
    columns = diff_columns(runs)
    if not seed:
        columns.pop("seed", None)
    experiments = [run.choices.get("experiment", MISSING) for run in runs]
    if len(set(experiments)) < 2:
        return columns
    overridden = {
        override.partition("=")[0].lstrip("+~") for run in runs for override in run.record.overrides
    }
    return {"experiment": experiments} | {
        name: values
        for name, values in columns.items()
        if name in ("seed", *overridden) or not _is_determined(values, [experiments])
    }


def cells(columns: Mapping[str, Sequence[Any]], missing: str = "") -> list[list[str]]:
    """Return columns of values as cells of a table; the first cell of a column is its name."""
    return [
        [
            safe_text(name),
            *distinct_texts([missing if value is MISSING else value for value in values]),
        ]
        for name, values in columns.items()
    ]


def row_at(columns: Mapping[str, Sequence[Any]], index: int) -> dict[str, Any]:
    """Return the values of a row by the names of their columns; missing values are left out."""
    values = {name: column[index] for name, column in columns.items()}
    return {name: value for name, value in values.items() if value is not MISSING}


def _group(name: str) -> str:
    return "data" if name == "fingerprint" else name.partition(".")[0]


def _is_determined(values: Iterable[Any], columns: Sequence[Sequence[Any]]) -> bool:
    """Return whether runs with equal entries in all `columns` have equal `values`, too."""
    determined: dict[tuple[str, ...], str] = {}
    return bool(columns) and all(
        determined.setdefault(tuple(map(repr, others)), repr(value)) == repr(value)
        for value, *others in zip(values, *columns, strict=True)
    )
