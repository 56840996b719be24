"""What came of a run, to be compared bit for bit."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, digest, read_checkpoint

TIMES = ("seconds", "images_per_second")


def results(directory: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """All that a run of the same settings and seed must have in common, by where it stands.

    Raises:
        Exception: something of it is missing or damaged.
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
    """The rows without what no two runs have in common."""
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def difference(
    directory: Path, expected: dict[str, Any], without: Collection[str] = ()
) -> str | None:
    """Where the results in a directory aren't the expected ones; None if they are.

    Args:
        directory: of the run.
        expected: what `results` gave of another run.
        without: what is not looked at.
    """
    try:
        found = results(directory, without)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    for name, value in expected.items():
        # NaN is equal to itself here.
        if name not in without and repr(found[name]) != repr(value):
            return f"another {name}: {found[name]!r:.300} instead of {value!r:.300}"
    return None
