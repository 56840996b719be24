"""The results of a run, which are compared bit for bit."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, digest, read_checkpoint

TIMES = ("seconds", "images_per_second")


def results(directory: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the results that runs with the same settings and seed have in common, by file.

    Raises:
        Exception: a result is missing or damaged.
    """
    record = json.loads((directory / "run.json").read_text())
    last = read_checkpoint(directory / "checkpoints" / LAST)
    last["rows"] = without_times(last["rows"])
    del last["seconds"]
    best = directory / "checkpoints" / BEST
    return {
        "run.json": {
            name: record[name]
            for name in ("signature", "state", "reason", "best", "final", "gap", "config", "seed")
        },
        "metrics.csv": without_times(read_metrics(directory)),
        "layer_norms.csv": (directory / "layer_norms.csv").read_text(),
        LAST: digest(last),
        BEST: digest(read_checkpoint(best)) if record["best"] and BEST not in without else None,
        "unfinished files": sorted(path.name for path in directory.rglob(".*-*")),
    }


def without_times(rows: list[dict]) -> list[dict]:
    """Return the rows of metrics.csv without the times, which differ from run to run."""
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def difference(
    directory: Path, expected: dict[str, Any], without: Collection[str] = ()
) -> str | None:
    """Describe the first difference between a run's results and the expected ones, if any.

    Args:
        directory: the run directory.
        expected: the `results` of another run.
        without: names of results that aren't compared.
    """
    try:
        actual = results(directory, without)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for name, value in expected.items():
        # repr() makes NaN equal to NaN.
        if name not in without and repr(actual[name]) != repr(value):
            return f"another {name}: {actual[name]!r:.300} instead of {value!r:.300}"
    return None
