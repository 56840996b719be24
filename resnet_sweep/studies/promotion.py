"""The rule by which pruned trials are promoted: resumed from their last checkpoints."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

# The share of the trials that the rule promotes if the pruner doesn't define one. It is the share
# that HyperbandPruner continues by default.
DEFAULT_SHARE = 1 / 3

# A trial's gain, and its negated number, so that the earlier of two equal trials is the better one.
_Entry = tuple[float, int]


def promoted_share(pruner: Mapping[str, Any] | None) -> float:
    """Return the share of the trials that a pruner continues, see `hydra.sweeper.pruner`."""
    node = pruner or {}
    if "reduction_factor" in node:
        return 1 / float(node["reduction_factor"])
    if "percentile" in node:
        return float(node["percentile"]) / 100
    return 0.5 if str(node.get("_target_")).endswith("MedianPruner") else DEFAULT_SHARE


class PausedTrials:
    """The pruned trials of a study, and the rule that promotes them.

    Trials are compared by their values at equal epochs. A trial that was pruned after an epoch is
    promoted when its value is among the best of all ended trials with a value at this epoch, for
    example the best third. This is the rule of ASHA (Li et al., 2020, "A system for massively
    parallel hyperparameter tuning"). Of several such trials, the one that was pruned after
    the most epochs comes first. A trial that diverges counts as worse than all others, at each of
    its epochs.

    `most_promising` needs no share. It orders trials by a prediction of their final value: their
    value at their last epoch, plus the mean increase of the complete trials after this epoch.

    A trial costs the same in a long study as in a short one, apart from sorted insertions.

    Args:
        gain: returns a value with its sign changed if lower values are better.
        share: the share that is promoted, see `promoted_share`.
    """

    def __init__(self, gain: Callable[[float], float], share: float) -> None:
        self.gain, self.share = gain, share
        # Maps an epoch to the entries of all ended trials, and of the pruned ones, in order.
        self._values: defaultdict[int, list[_Entry]] = defaultdict(list)
        self._paused: defaultdict[int, list[_Entry]] = defaultdict(list)
        # Maps the number of a pruned trial to its last epoch and its entry.
        self._position: dict[int, tuple[int, _Entry]] = {}
        # Maps an epoch to the sum of the increases until the end, and their number.
        self._increases: dict[int, tuple[float, int]] = {}

    def add(self, trial: FrozenTrial, number: int, first: int, state: str) -> None:
        """Add a trial that has ended.

        Args:
            trial: the trial.
            number: its number, or that of the trial that it continues.
            first: the last epoch of the trial that it continues, or else 0.
            state: the run state.
        """
        entries = {
            step: (self._known(value), -number) for step, value in trial.intermediate_values.items()
        }
        for step, entry in entries.items():
            values = self._values[step]
            if state == "diverged":
                if step <= first:
                    _remove(values, entry)
                entry = (-math.inf, -number)
            if step > first or state == "diverged":
                insort(values, entry)
        if trial.state is TrialState.COMPLETE and trial.values and entries:
            final = self.gain(trial.values[0])
            for step, (gain, _) in entries.items():
                total, count = self._increases.get(step, (0.0, 0))
                self._increases[step] = total + final - gain, count + 1
        # A promoted trial without a new epoch can't be trained, so it isn't promoted again.
        elif state == "pruned" and (last := max(entries, default=0)) > first:
            self._position[number] = last, entries[last]
            insort(self._paused[last], entries[last])

    def remove(self, number: int) -> None:
        """Remove a trial from the pruned ones, because another trial continues it."""
        if number in self._position:
            step, entry = self._position.pop(number)
            _remove(self._paused[step], entry)

    def promotable(self) -> int | None:
        """Return the number of the next trial to promote; None if there is none."""
        for step in sorted(self._paused, reverse=True):
            values, paused = self._values[step], self._paused[step]
            if paused and _rank(values, paused[-1]) <= self.share * len(values) + 1e-9:
                return -paused[-1][1]
        return None

    def most_promising(self) -> int | None:
        """Return the number of the pruned trial with the best prediction; None if there is none."""
        best = [
            (self._predict(step, paused[-1]), paused[-1][1])
            for step, paused in self._paused.items()
            if paused
        ]
        return -max(best)[1] if best else None

    def _predict(self, step: int, entry: _Entry) -> float:
        total, count = self._increases.get(step, (0.0, 0))
        return entry[0] + (total / count if count else 0.0)

    def _known(self, value: float) -> float:
        return -math.inf if math.isnan(value) else self.gain(value)


def _rank(values: list[_Entry], entry: _Entry) -> int:
    """Return the rank of an entry in sorted values, from 1 for the best."""
    return len(values) - bisect_right(values, entry) + 1


def _remove(values: list[_Entry], entry: _Entry) -> None:
    index = bisect_left(values, entry)
    if index < len(values) and values[index] == entry:
        values.pop(index)
