"""Counts of the outcomes of trials."""

from collections import Counter


class Tally:
    """The outcomes of the trials of one kind of fault.

    Args:
        fault: a description of the fault for the table.

    Attributes:
        outcomes: the number of trials with each expected outcome.
        failures: a description of each trial with an outcome that must not happen.
    """

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []

    def add(self, outcome: str, failure: str | None = None) -> None:
        """Count a trial by its outcome, or store the description of its failure."""
        if failure is None:
            self.outcomes[outcome] += 1
        else:
            self.failures.append(f"{self.fault}: {failure}")

    @property
    def total(self) -> int:
        """The number of trials."""
        return self.outcomes.total() + len(self.failures)

    def row(self) -> str:
        """Return a row of the table in docs/explanation/reliability.md."""
        outcomes = "; ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        return f"| {self.fault} | {self.total:,} | {outcomes} | {len(self.failures)} |"
