"""Markdown tables of the benchmarks."""

from collections.abc import Sequence
from statistics import median


def table_row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def table_header(*columns: str) -> str:
    """Return the first two lines of a table: the column names and the separator."""
    return f"{table_row(*columns)}\n|{'---|' * len(columns)}"


def median_and_range(values: Sequence[float], digits: int) -> list[str]:
    """Return three cells: the median, the minimum and the maximum."""
    return [f"{statistic(values):.{digits}f}" for statistic in (median, min, max)]
