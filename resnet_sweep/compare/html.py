"""Tables as HTML, which a Jupyter notebook shows."""

from collections.abc import Collection, Iterable, Sequence
from html import escape


def html_table(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return rows of cells as an HTML table.

    Args:
        rows: rows of equal length; the first is the header. The cells are escaped.
        right: positions of the columns that are aligned on the right.
    """
    header, *body = rows
    lines = [_html_row(header, "th", right), *(_html_row(row, "td", right) for row in body)]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def html_lines(lines: Iterable[str]) -> str:
    """Return lines of text as an HTML paragraph."""
    return f"<p>{'<br>'.join(map(escape, lines))}</p>"


def _html_row(cells: Sequence[str], tag: str, right: Collection[int]) -> str:
    return "<tr>{}</tr>".format(
        "".join(
            f'<{tag} style="text-align: {"right" if index in right else "left"}">{escape(cell)}'
            f"</{tag}>"
            for index, cell in enumerate(cells)
        )
    )
