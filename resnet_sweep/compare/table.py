"""Tables of text that stay readable on narrow terminals."""

from collections.abc import Sequence

from rich.cells import cell_len

GAP = 2
# Of what is continued below the first line of a row.
INDENT = 4


def lay_out(rows: Sequence[Sequence[str]], right: frozenset[int], width: int | None) -> list[str]:
    """Write rows of cells so that the cells of a column stand below each other.

    Args:
        rows: the first is the header; all of the same length.
        right: positions of the columns that are flush right.
        width: of a line; where a row is wider, it goes on in the next line. None: any.

    Returns:
        The text of each row, of equally many lines.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    bands = _bands(widths, width)
    texts = []
    for row in rows:
        lines = []
        for number, band in enumerate(bands):
            cells = (pad(row[at], widths[at], at in right) for at in band)
            indent = " " * INDENT if number else ""
            lines.append(f"{indent}{(' ' * GAP).join(cells)}".rstrip())
        texts.append("\n".join(lines))
    return texts


def pad(text: str, width: int, right: bool = False) -> str:
    """A text with spaces up to a width in the cells of a terminal."""
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces


def _bands(widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Which columns stand in each of the lines of a row."""
    bands: list[list[int]] = [[]]
    taken = 0
    for at, width in enumerate(widths):
        if limit is not None and bands[-1] and taken + width > limit:
            bands.append([])
            taken = INDENT
        bands[-1].append(at)
        taken += width + GAP
    return bands
