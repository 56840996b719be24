"""The sweeper of the subcommand `judge`, which compares a baseline with a change of it."""

from collections.abc import Sequence
from typing import Any

from resnet_sweep.sweeps.grid import GridSweeper, report_end


class JudgeSweeper(GridSweeper):
    """Trains a baseline and a change of it, and ends with a verdict; see `Question`.

    Args:
        change: overrides of the variant that is compared with the baseline.
        questions: number of questions that share an error probability of 5%.
        json: print the answer as JSON.
        others: as in `GridSweeper`.
    """

    def __init__(
        self, change: Sequence[str] = (), questions: int = 1, json: bool = False, **others: Any
    ) -> None:
        super().__init__(**others)
        self.change, self.questions, self.json = [*change], questions, json

    def sweep(self, arguments: list[str]) -> None:
        """Answer the question, and exit with the status of the answer; see `Question.answer`."""
        # The import of torch takes seconds, and --help doesn't need it.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.sweeps.question import Question

        with wrap_internal_errors():
            question = Question(self.context, self.composed, arguments, self.change, self.questions)
            status = question.answer(self.json)
        report_end(self.caller, self.composed)
        if status:
            raise SystemExit(status)
