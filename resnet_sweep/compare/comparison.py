"""What is different between runs: what was asked for, what came of it, and where."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import number, percent, span
from resnet_sweep.compare.varying import ABSENT, differing
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import NEUTRAL, ORDER, flatten

# What counts as a setting, but is told with the environment that it follows from.
PRECISION = "precision"


@dataclass(frozen=True)
class Figure:
    """A figure of the outcome.

    Attributes:
        name: for people.
        of: takes it from a record; None if it isn't known.
        show: writes it, or with the sign "+" a difference.
        counts: whether runs that differ in it have different outcomes.
    """

    name: str
    of: Callable[[Record], float | None]
    show: Callable[..., str]
    counts: bool = True


def _of(epoch: str, name: str) -> Callable[[Record], float | None]:
    return lambda record: (getattr(record, epoch) or {}).get(name)


def _loss(value: float | None, sign: str = "") -> str:
    return number(value, 4, sign=sign)


def _points(value: float | None, sign: str = "") -> str:
    return number(value, 2, sign=sign) if sign else percent(value)


def _count(value: float | None, sign: str = "") -> str:
    return number(value, 0, sign=sign)


FIGURES = (
    Figure("best accuracy", _of("best", "val_acc"), _points),
    Figure("best epoch", _of("best", "epoch"), _count),
    Figure("best validation loss", _of("best", "val_loss"), _loss),
    Figure("final accuracy", _of("final", "val_acc"), _points),
    Figure("final training accuracy", _of("final", "train_acc"), _points),
    Figure("final validation loss", _of("final", "val_loss"), _loss),
    Figure("final training loss", _of("final", "train_loss"), _loss),
    Figure("gap", lambda record: record.gap, _points),
    Figure("epochs", _of("final", "epoch"), _count),
    Figure("parameters", lambda record: record.parameters, _count),
    Figure("time", lambda record: record.seconds, span, counts=False),
)


@dataclass(frozen=True)
class Comparison:
    """Two runs or more, beside each other.

    Attributes:
        entries: with sound records.
    """

    entries: Sequence[Entry]

    @property
    def records(self) -> list[Record]:
        """What each run says of itself."""
        return [entry.record for entry in self.entries]

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """The choices that differ, with that of each run."""
        return differing([entry.choices for entry in self.entries])

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """The settings that decide what is trained and differ, with the value in each run.

        One that a run hasn't got is ABSENT, or at its neutral default if it came later than the
        run.
        """
        found = differing([entry.settings for entry in self.entries])
        for name in (PRECISION, "fingerprint"):
            # What isn't known, as of the log's runs, can't be said to differ.
            if ABSENT in found.get(name, ()):
                del found[name]
        if any(name.startswith("augmentation.") for name in found if name != ORDER):
            # Other operations have another order.
            found.pop(ORDER, None)
        return found

    @cached_property
    def environment(self) -> dict[str, list[Any]]:
        """What differs in where and how the runs were carried out."""
        return differing([dict(_environment(entry)) for entry in self.entries])

    @cached_property
    def states(self) -> dict[str, list[Any]]:
        """How far the runs came, if that differs."""
        return differing([{"state": entry.state} for entry in self.entries])

    def values(self, figure: Figure) -> list[float | None]:
        """A figure of each run."""
        return [figure.of(record) for record in self.records]

    @property
    def replicates(self) -> bool:
        """Whether the runs differ in their seeds, and in nothing else that decides them."""
        return set(self.settings) == {"seed"}

    @property
    def same(self) -> bool:
        """Whether all settings, states and figures are the same; times don't count."""
        return not (self.settings or self.states) and all(
            len(set(self.values(figure))) == 1 for figure in FIGURES if figure.counts
        )

    def json(self) -> str:
        """All of it for programs; a setting that a run hasn't got is missing from its mapping."""

        def by_run(differences: dict[str, list[Any]]) -> list[dict[str, Any]]:
            return [
                {
                    name: values[at]
                    for name, values in differences.items()
                    if values[at] is not ABSENT
                }
                for at in range(len(self.entries))
            ]

        parts = zip(
            self.entries,
            by_run(self.choices),
            by_run(self.settings),
            by_run(self.environment),
            strict=True,
        )
        outcome = ("best", "final", "gap", "parameters", "seconds", "notes")
        content = {
            "same": self.same,
            "replicates": self.replicates,
            "runs": [
                {
                    "name": entry.name,
                    "state": entry.state,
                    "choices": choices,
                    "settings": settings,
                    **{name: asdict(entry.record)[name] for name in outcome},
                    "environment": environment,
                }
                for entry, choices, settings, environment in parts
            ],
        }
        return json.dumps(content, indent=2)


def _environment(entry: Entry) -> Iterator[tuple[str, Any]]:
    record = entry.record
    for name in ("device", "threads", PRECISION, "host", "git_commit"):
        if getattr(record, name) is not None:
            yield name, getattr(record, name)
    for package, version in record.versions.items():
        yield f"versions.{package}", version
    for name, value in flatten(record.config):
        if name not in entry.settings and name not in NEUTRAL:
            yield name, value
