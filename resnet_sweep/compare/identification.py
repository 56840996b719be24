"""Which runs came nearest to others of which only the curves are known."""

from collections.abc import Mapping, Sequence

from resnet_sweep.compare.distance import distance
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import Group, Statistic, replicates, spread
from resnet_sweep.compare.table import lay_out
from resnet_sweep.compare.text import shown
from resnet_sweep.compare.varying import ABSENT, variants
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import Row


class Identification:
    """Groups of replicates by their distance from some references, nearest first.

    Args:
        entries: of the candidates; those that can't be read are left out.
        references: curves, see `read_reference`, by the names that the table gives them.

    Attributes:
        groups: in the order of the distance from the nearest of the references; those without a
            complete run last, of which less is known.
        distances: for each reference, those of the groups: mean and spread over the runs that
            count, None where it isn't known.
    """

    def __init__(self, entries: Sequence[Entry], references: Mapping[str, Sequence[Row]]) -> None:
        found = [
            (group, [_distances(group, rows) for rows in references.values()])
            for group in replicates(entry for entry in entries if entry.record is not None)
        ]
        found.sort(key=lambda pair: (not pair[0].complete, min(map(_mean, pair[1]), default=0.0)))
        self.groups = [group for group, _ in found]
        self.distances: dict[str, list[Statistic | None]] = {
            name: [distances[at] for _, distances in found] for at, name in enumerate(references)
        }

    def ranked(self, reference: str) -> list[Group]:
        """The groups in the order of their distance from one of the references."""
        pairs = zip(self.groups, self.distances[reference], strict=True)
        order = sorted(pairs, key=lambda pair: (not pair[0].complete, _mean(pair[1])))
        return [group for group, _ in order]

    def lines(self, width: int | None) -> list[str]:
        """The table for people: what tells the candidates apart, and their distances in points.

        Args:
            width: of the terminal; None if there is none.

        Returns:
            The header and each group as text, of a line or several.
        """
        varied = variants([group.entries[0] for group in self.groups])
        columns = [
            *([shown(name), *map(shown, distances)] for name, distances in self._told().items()),
            ["n", *(str(len(group.counted)) for group in self.groups)],
            ["epochs", *map(_epochs, self.groups)],
            *(
                [shown(name), *("" if value is ABSENT else shown(value) for value in values)]
                for name, values in varied.items()
            ),
            ["run", *(shown(group.counted[0].name) for group in self.groups)],
        ]
        right = frozenset(range(len(self.distances) + 2))
        return lay_out(list(zip(*columns, strict=True)), right, width)

    def _told(self) -> dict[str, list[str]]:
        return {
            name: [spread(each, 2) for each in distances]
            for name, distances in self.distances.items()
        }


def _distances(group: Group, reference: Sequence[Row]) -> Statistic | None:
    def of(entry: Entry) -> float | None:
        try:
            return distance(entry.metrics.rows, reference)
        except RequestError:
            return None

    return group.figure(of)


def _mean(statistic: Statistic | None) -> float:
    return float("inf") if statistic is None else statistic.mean


def _epochs(group: Group) -> str:
    """How many epochs the runs that count have, which is how far they can be compared."""
    counts = {len(entry.metrics.rows) for entry in group.counted}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
