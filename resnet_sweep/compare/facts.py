"""What is known of a run, by name: what can be asked for, sorted and grouped by."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.signature import NEUTRAL, flatten, plain

Facts = Mapping[str, Any]


def facts(entry: Entry) -> Facts:
    """All that a sound record says, flat.

    Settings have their names in the config (`optim.lr`); the name of a group alone is the choice
    made there (`optim`). The rest is called as in `run.json` (`best.val_acc`, `seconds`, `host`),
    but `best` and `final` alone are the validation accuracies of these epochs; `time` and `run` are
    what the table calls `seconds` and the run's name.
    """
    record = entry.record
    assert record is not None
    best, final = record.best or {}, record.final or {}
    return {
        **NEUTRAL,
        **{name: plain(value) for name, value in flatten(record.config)},
        **record.choices,
        "run": entry.name,
        "state": entry.state,
        "reason": record.reason,
        "parameters": record.parameters,
        "best": best.get("val_acc"),
        "final": final.get("val_acc"),
        **{f"best.{name}": value for name, value in best.items()},
        **{f"final.{name}": value for name, value in final.items()},
        "gap": record.gap,
        "seconds": record.seconds,
        "time": record.seconds,
        "started": record.started,
        "ended": record.ended,
        "host": record.host,
        "device": record.device,
        "threads": record.threads,
        "precision": record.precision,
        "git_commit": record.git_commit,
        "fingerprint": record.fingerprint,
    }


def check_known(names: Iterable[str], of: Iterable[Facts]) -> None:
    """See that some run has each of the names.

    Raises:
        RequestError: none has; with the nearest name that there is.
    """
    known = {name for each in of for name in each}
    for name in sorted(names):
        # Without runs there is nothing to mistake.
        if known and name not in known:
            near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"did you mean {shown(near[0])}?" if near else "name one such as optim.lr"
            raise RequestError(f"none of the runs has {shown(name)}: {hint}")
