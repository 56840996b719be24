"""The table of runs: what tells them apart, and what came of them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.facts import Facts, check_known, facts
from resnet_sweep.compare.group import Group, Statistic, grouped, replicates, spread
from resnet_sweep.compare.table import lay_out
from resnet_sweep.compare.text import shown, span
from resnet_sweep.compare.varying import ABSENT, columns

_FIGURES = {
    "best": lambda entry: entry.record.best and entry.record.best["val_acc"],
    "final": lambda entry: entry.record.final and entry.record.final["val_acc"],
    "seconds": lambda entry: entry.record.seconds,
}


class Overview:
    """Runs in groups, a line each.

    Args:
        entries: of the runs, in order.
        where: the runs that are wanted; None for all.
        keys: facts that the runs of a group have in common; None puts replicates together, and an
            empty sequence nothing.
        sort: the fact that groups are in the order of, `-` before it for the largest first: of
            numbers the mean, of anything else that of the newest run. A group without it comes
            last. None keeps the order of the entries.
        top: how many groups; None for all.

    Attributes:
        groups: in order.
        columns: the values of what tells the groups apart, by name.
        damaged: the runs that can't be read.

    Raises:
        RequestError: no run has a fact that is asked for.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        where: Condition | None = None,
        keys: Sequence[str] | None = None,
        sort: str | None = None,
        top: int | None = None,
    ) -> None:
        self.damaged = [entry for entry in entries if entry.record is None]
        sound = [entry for entry in entries if entry.record is not None]
        asked = {*(keys or ()), *(where.names if where else ())}
        asked |= {sort.removeprefix("-")} if sort is not None else set()
        known = {entry: facts(entry) for entry in sound} if asked or where is not None else {}
        check_known(asked, known.values())
        if where is not None:
            sound = [entry for entry in sound if where.holds(known[entry])]
        if keys is None:
            self.groups = replicates(sound)
        elif keys:
            self.groups = grouped(
                sound, lambda entry: tuple(repr(known[entry].get(key)) for key in keys)
            )
        else:
            self.groups = [Group([entry]) for entry in sound]
        if sort is not None:
            self.groups = _sorted(self.groups, sort, known)
        self.groups = self.groups[:top]
        self.columns = self._columns(keys, known)

    def _columns(
        self, keys: Sequence[str] | None, known: Mapping[Entry, Facts]
    ) -> dict[str, list[Any]]:
        first = [group.entries[0] for group in self.groups]
        if keys:
            return {key: [known[entry].get(key, ABSENT) for entry in first] for key in keys}
        found = columns(first)
        if keys is None:
            found.pop("seed", None)
            seeds = [
                sorted((entry.settings.get("seed") for entry in group.counted), key=_rank)
                for group in self.groups
            ]
            if len({repr(seed) for each in seeds for seed in each}) > 1:
                found["seed"] = [each[0] if len(each) == 1 else each for each in seeds]
        return found

    def lines(self, width: int | None) -> list[str]:
        """The table for people.

        Args:
            width: of the terminal; None if there is none.

        Returns:
            The header and each group as text, of a line or several.
        """
        several = any(len(group.entries) > 1 for group in self.groups)
        # The name of a run comes last, since it is the longest.
        header = ["state", "started", *["n"] * several, "best", "final", "time"]
        rows = [[*header, *map(shown, self.columns), "run"]]
        for number, group in enumerate(self.groups):
            figures = self._statistics(group)
            seconds = figures["seconds"]
            rows.append(
                [
                    shown(group.state),
                    _minute(group),
                    *[str(len(group.counted))] * several,
                    spread(figures["best"], 2, "%"),
                    spread(figures["final"], 2, "%"),
                    span(seconds and seconds.mean),
                    *(_cell(values[number]) for values in self.columns.values()),
                    _name(group),
                ]
            )
        right = frozenset(range(2, 5 + several))
        return lay_out(rows, right, width)

    def damage(self) -> list[str]:
        """A line for each run that can't be read."""
        return [f"{shown(entry.name)}: {shown(entry.damage)}" for entry in self.damaged]

    def json(self) -> str:
        """All of it for programs."""
        content = {
            "runs": [
                {
                    "names": [entry.name for entry in group.entries],
                    "n": len(group.counted),
                    "state": group.state,
                    "started": group.entries[0].record.started,
                    **{
                        name: statistic and statistic._asdict()
                        for name, statistic in self._statistics(group).items()
                    },
                    "varies": {
                        name: values[number]
                        for name, values in self.columns.items()
                        if values[number] is not ABSENT
                    },
                }
                for number, group in enumerate(self.groups)
            ],
            "damaged": [{"name": entry.name, "reason": entry.damage} for entry in self.damaged],
        }
        return json.dumps(content, indent=2)

    def csv(self) -> str:
        """The lines for programs and spreadsheets, with all digits; damaged runs are left out."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        figures = [name + end for name in _FIGURES for end in ("", "_sd")]
        header = ["run", "n", "state", "started", *figures, *map(shown, self.columns)]
        writer.writerow(map(_inert, header))
        for number, group in enumerate(self.groups):
            writer.writerow(
                [
                    _inert(shown(group.entries[0].name)),
                    len(group.counted),
                    _inert(shown(group.state)),
                    _inert(shown(group.entries[0].record.started or "")),
                    *(
                        figure
                        for statistic in self._statistics(group).values()
                        for figure in (statistic[:2] if statistic else (None, None))
                    ),
                    *(
                        values[number]
                        if _is_number(values[number])
                        else _inert(_cell(values[number]))
                        for values in self.columns.values()
                    ),
                ]
            )
        return text.getvalue().removesuffix("\n")

    @staticmethod
    def _statistics(group: Group) -> dict[str, Statistic | None]:
        return {name: group.figure(of) for name, of in _FIGURES.items()}


def _sorted(groups: list[Group], sort: str, known: Mapping[Entry, Facts]) -> list[Group]:
    name = sort.removeprefix("-")

    def value(group: Group) -> Any:
        if name == "started":
            # Texts of different time zones have another order.
            return group.entries[0].started
        values = [known[entry].get(name) for entry in group.counted]
        numbers = [each for each in values if each is not None]
        if numbers and all(map(_is_number, numbers)):
            return Statistic.of(numbers).mean
        return values[0]

    ranked = [(value(group), group) for group in groups]
    present = [pair for pair in ranked if pair[0] is not None]
    present.sort(key=lambda pair: _rank(pair[0]), reverse=sort.startswith("-"))
    return [group for _, group in present] + [group for value, group in ranked if value is None]


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then everything else as text."""
    return (False, value) if _is_number(value) else (True, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _minute(group: Group) -> str:
    started = group.entries[0].record.started
    return shown(started[:16].replace("T", " ")) if started else "unknown"


def _name(group: Group) -> str:
    others = len(group.entries) - 1
    return shown(group.entries[0].name) + (f" and {others} more" if others else "")


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _cell(value: Any) -> str:
    return "" if value is ABSENT else shown(value)
