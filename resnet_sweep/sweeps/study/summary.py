"""What came of a study, in some lines: its best trials, and what is to be done about the others."""

from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import TrialState

from resnet_sweep.compare.content import repeating_command
from resnet_sweep.compare.table import lay_out
from resnet_sweep.compare.text import shown
from resnet_sweep.composition.command import relative
from resnet_sweep.runs.record import Record, duration
from resnet_sweep.sweeps.study.composer import Composer
from resnet_sweep.sweeps.study.results import Outcome

MOST_TOLD = 10


class Summary:
    """What came of a study.

    Args:
        outcomes: of all its trials.
        composer: of their runs.
        front: the numbers of the trials that none outdoes, of a study with several objectives.
    """

    def __init__(
        self, outcomes: Sequence[Outcome], composer: Composer, front: Sequence[int] | None
    ) -> None:
        self.outcomes, self.composer = outcomes, composer
        complete = [
            outcome for outcome in outcomes
            if outcome.trial.state is TrialState.COMPLETE
            and (front is None or outcome.trial.number in front)
        ]  # fmt: skip
        first = composer.objectives[0]
        self.ranked = sorted(complete, key=lambda each: -first.gain(each.values[0]))
        self.broken = [each for each in outcomes if each.state in ("failed", "diverged")]

    def lines(self, width: int | None) -> list[str]:
        """The summary.

        Args:
            width: of the terminal; None if there is none.
        """
        states = dict.fromkeys(outcome.state for outcome in self.outcomes)
        counts = [
            f"{sum(outcome.state == state for outcome in self.outcomes)} {state}"
            for state in states
        ]
        lines = [*self._table(width), f"{len(self.outcomes)} trials: {', '.join(counts)}"]
        if self.ranked and self.ranked[0].entries:
            lines.append(f"The best run again:\n  {repeating_command(self._best())}")
        lines += [
            f"trial {outcome.trial.number} {outcome.state}: {shown(outcome.reason)}"
            for outcome in self.broken[:MOST_TOLD]
        ]
        return lines

    def _table(self, width: int | None) -> list[str]:
        if not self.ranked:
            return []
        objectives, keys = self.composer.objectives, list(self.composer.space.distributions)
        titles = [each.title for each in objectives]
        rows = [["trial", "state", *titles, "time", *map(shown, keys), "directory"]]
        for outcome in self.ranked[:MOST_TOLD]:
            values = zip(objectives, outcome.values, strict=True)
            rows.append(
                [
                    str(outcome.trial.number),
                    outcome.state,
                    *(each.told(value) for each, value in values),
                    duration(outcome.seconds or 0),
                    *(shown(outcome.trial.params.get(key, "")) for key in keys),
                    relative(outcome.directory),
                ]
            )
        return lay_out(rows, frozenset({0, *range(2, 3 + len(objectives))}), width)

    def _best(self) -> Record:
        """The record of the best trial's run, whose command trains all its replicates."""
        record = self.ranked[0].entries[0].record
        if self.composer.replicates == 1:
            return record
        words = [word for word in record.overrides if not word.startswith("seed=")]
        # With which seed they begin, if one was typed.
        seed = [word for key, word in self.composer.space.fixed.items() if key == "seed"]
        several = f"replicates={self.composer.replicates}"
        return replace(record, overrides=[*words, several, *seed])
