"""What came of the trials of a study, a line each: `results.csv`."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import Statistic
from resnet_sweep.compare.objective import Objective
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.record import duration
from resnet_sweep.sweeps import ledger, results
from resnet_sweep.sweeps.study.trials import (
    FOUND,
    PLACE,
    REASON,
    SAME_AS,
    SIGNATURE,
    STATE,
)

# What a state of Optuna's is called here, if the run itself doesn't say.
STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class Outcome:
    """What came of a trial.

    Args:
        trial: as the storage has it.
        top: directory of the sweep.

    Attributes:
        directory: of its run, or of its replicates; absolute.
        entries: its runs, as far as they have begun.
    """

    def __init__(self, trial: FrozenTrial, top: Path) -> None:
        self.trial = trial
        place = trial.user_attrs.get(PLACE, str(trial.number))
        self.directory = Path(os.path.abspath(top / place))
        elsewhere = map(Path, trial.user_attrs.get(FOUND, ()))
        found = [self.directory, *sorted(self.directory.glob("*/")), *elsewhere]
        self.entries = [
            Entry.read(each, str(each)) for each in found if (each / "run.json").exists()
        ]

    @property
    def state(self) -> str:
        """In our own words; of one that runs, that of its run."""
        if self.trial.state is TrialState.RUNNING:
            states = [entry.state for entry in self.entries]
            return "interrupted" if states and states[-1] == "interrupted" else "running"
        return self.trial.user_attrs.get(STATE, STATES[self.trial.state])

    @property
    def reason(self) -> str:
        """Why it isn't simply finished; empty otherwise."""
        attributes = self.trial.user_attrs
        told = attributes.get(REASON, "")
        if attributes.get(SAME_AS) is not None:
            same = f"the same as trial {attributes[SAME_AS]}"
            return f"{same}: {told}" if told else same
        return told

    @property
    def values(self) -> list[float] | None:
        """Of the objectives; of a pruned trial, that of its last epoch."""
        return self.trial.values if self.trial.state.is_finished() else None

    def mean(self, part: str, name: str) -> float | None:
        """The mean of a figure of its runs' records."""
        known = [getattr(entry.record, part) for entry in self.entries if entry.record is not None]
        statistic = Statistic.of(each[name] for each in known if each)
        return statistic and statistic.mean

    @property
    def seconds(self) -> float | None:
        """Of all its runs together."""
        known = [entry.record.seconds for entry in self.entries if entry.record is not None]
        return sum(filter(None, known)) if known else None

    def statistic(self, objective: Objective) -> Statistic | None:
        """Of an objective, over its runs."""
        return Statistic.of(map(objective.value, self.entries))

    def describe(self, objectives: Sequence[Objective]) -> str:
        """In a line, for people."""
        told = f"trial {self.trial.number} {self.state}"
        if self.reason:
            told += f" ({self.reason})"
        if self.values is not None:
            told += ": " + ", ".join(
                f"{each.title} {each.told(value)}"
                for each, value in zip(objectives, self.values, strict=True)
            )
        if self.seconds:
            told += f", {duration(self.seconds)}"
        return told


def write(
    top: Path,
    outcomes: Sequence[Outcome],
    objectives: Sequence[Objective],
    keys: Sequence[str],
    definition: Mapping[str, Any],
) -> None:
    """Write `results.csv` and `sweep.json`.

    Args:
        top: directory of the sweep.
        outcomes: of its trials, by number.
        objectives: what they are judged by, a column each; accuracies are percent.
        keys: that are searched.
        definition: what there is to say of the study as a whole.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["number", "state", "directory", "best_val_acc", "final_val_acc", "seconds"]
    names = [each.name for each in objectives]
    values = ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
    writer.writerow([*header, *values, *keys, "sd", "n", "reason"])
    for outcome in outcomes:
        statistic = outcome.statistic(objectives[0])
        writer.writerow(
            [
                outcome.trial.number,
                outcome.state,
                os.path.relpath(outcome.directory, top),
                outcome.mean("best", "val_acc"),
                outcome.mean("final", "val_acc"),
                outcome.seconds,
                *(outcome.values or [None] * len(names)),
                *(outcome.trial.params.get(key, "") for key in keys),
                statistic and statistic.sd,
                statistic.n if statistic else 0,
                outcome.reason,
            ]
        )
    write_atomically(top / results.NAME, text.getvalue().encode())
    lines = [
        {
            "number": outcome.trial.number,
            "overrides": [f"{key}={value}" for key, value in outcome.trial.params.items()],
            "signature": outcome.trial.user_attrs.get(SIGNATURE, ""),
            "directory": os.path.relpath(outcome.directory, top),
            "reused": False,
            "state": outcome.state,
            "value": outcome.values and outcome.values[0],
            "reason": outcome.reason,
            "settings": dict(outcome.trial.params),
        }
        for outcome in outcomes
    ]
    content = {"definition": definition, "jobs": lines, "lease": None}
    write_atomically(top / ledger.NAME, json.dumps(content, indent=1).encode() + b"\n")
