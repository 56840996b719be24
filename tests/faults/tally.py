"""What came of the trials of one kind of fault."""

from collections import Counter


class Tally:
    """Counts outcomes, and keeps those that mustn't be.

    Args:
        fault: what is done, for the table.

    Attributes:
        outcomes: how often each came about.
        lost: a description of each trial that lost something or let something in.
    """

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.outcomes: Counter[str] = Counter()
        self.lost: list[str] = []

    def add(self, outcome: str, wrong: str | None = None) -> None:
        """Count a trial; `wrong` says what mustn't have been, if anything."""
        if wrong is None:
            self.outcomes[outcome] += 1
        else:
            self.lost.append(f"{self.fault}: {wrong}")

    @property
    def tried(self) -> int:
        """How many trials there were."""
        return self.outcomes.total() + len(self.lost)

    def row(self) -> str:
        """A row of the table in docs/explanation/reliability.md."""
        outcomes = "; ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        return f"| {self.fault} | {self.tried:,} | {outcomes} | {len(self.lost)} |"
