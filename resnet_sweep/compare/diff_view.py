"""The output of `diff`: tables, and a figure with the learning curves of the runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from resnet_sweep.compare.comparison import PRECISION, Comparison
from resnet_sweep.compare.diff_columns import cells
from resnet_sweep.compare.format import format_table, safe_text
from resnet_sweep.compare.html import html_lines, html_table
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.figures import png
from resnet_sweep.runs.files import write_atomically

# Width of a run's column. If the columns of all runs don't fit, they are divided among several
# tables, with at least MIN_COLUMNS in each.
COLUMN_WIDTH = 10
MIN_COLUMNS = 2
MAX_NAME_WIDTH = 30
# The panels of the figure: title, and metrics column of training and of validation.
PANELS = (("accuracy, %", "train_acc", "val_acc"), ("loss", "train_loss", "val_loss"))

# A row of a table: a name, the value of each run, and the difference between two runs.
TableRow = tuple[str, Sequence[str], str]


def diff_view(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """Yield the parts of the output: names of the runs, differing settings, and outcomes.

    Of two runs, all outcomes are included. Of more runs, only the outcomes that differ are.
    """
    labels, rows = _labels(comparison), _rows(comparison)
    for line in _names(comparison):
        yield Text(line)
    for title in ("Choices", "Settings"):
        yield from _tables(title, rows[title], labels, width)
    if not comparison.settings:
        yield "\nAll settings that decide what is trained are the same."
    elif comparison.replicates:
        yield "  Only the seed differs."
    for title in ("Outcome", "Environment"):
        yield from _tables(title, rows[title], labels, width)
    yield from _notes(comparison, labels)


def diff_html(comparison: Comparison) -> str:
    """Return the names of the runs, the differing settings and the outcomes as HTML."""
    labels = _labels(comparison)
    tables = [html_lines(_names(comparison))]
    if not comparison.settings:
        tables.append(html_lines(["All settings that decide what is trained are the same."]))
    for title, rows in _rows(comparison).items():
        changes = _change_title(rows, labels)
        cells = [[title, *labels, *changes]]
        cells += [[name, *values, *([change] if changes else [])] for name, values, change in rows]
        if rows:
            tables.append(html_table(cells, range(1, len(cells[0]))))
    return "\n".join(tables)


def _labels(comparison: Comparison) -> list[str]:
    count = len(comparison.runs)
    return [chr(ord("A") + index) if index < 26 else str(index + 1) for index in range(count)]


def _names(comparison: Comparison) -> Iterator[str]:
    """Yield a line for each run: its label, its name and its state."""
    for label, run in zip(_labels(comparison), comparison.runs, strict=True):
        reason = f" ({safe_text(run.record.reason)})" if run.record.reason else ""
        yield f"{label:3}{safe_text(run.name)}: {safe_text(run.state)}{reason}"


def _rows(comparison: Comparison) -> dict[str, list[TableRow]]:
    """Return the rows of each table, by the title of the table."""
    settings = {name: values for name, values in comparison.settings.items() if name != PRECISION}
    return {
        "Choices": _differences(comparison.choices),
        "Settings": _differences(settings),
        "Outcome": [*_differences(comparison.states), *_outcomes(comparison)],
        "Environment": _differences(comparison.environment),
    }


def _change_title(rows: Sequence[TableRow], labels: Sequence[str]) -> list[str]:
    """Return the header of the column with differences, or nothing if no row has one."""
    return [f"{labels[1]} - {labels[0]}"] if any(change for *_, change in rows) else []


def _differences(differences: Mapping[str, Sequence[Any]]) -> list[TableRow]:
    return [
        (name, values, "")
        for name, *values in cells(dict(sorted(differences.items())), "not set")
        # A group that is empty in one run needs no row: its settings in other runs have rows.
        if not ("{}" in values and any(other.startswith(f"{name}.") for other in differences))
    ]


def _outcomes(comparison: Comparison) -> Iterator[TableRow]:
    for outcome in comparison.summary_metrics:
        values = comparison.values(outcome)
        if len(values) > 2 and len(set(values)) == 1:
            continue
        change = ""
        if len(values) == 2:
            first, second = values
            if first is not None and second is not None:
                same = first == second
                change = "same" if same else outcome.format_difference(second - first)
        if any(value is not None for value in values):
            yield outcome.name, [outcome.format(value) for value in values], change


def _tables(
    title: str, rows: Sequence[TableRow], labels: Sequence[str], width: int
) -> Iterator[RenderableType]:
    """Yield a table with a column for each run, or several tables if the columns don't fit."""
    names = min(MAX_NAME_WIDTH, max((len(name) + 4 for name, *_ in rows), default=0))
    fitting = max(MIN_COLUMNS, (width - names) // COLUMN_WIDTH)
    changes = _change_title(rows, labels)
    for start in range(0, len(labels) if rows else 0, fitting):
        part = slice(start, start + fitting)
        table = [[title, *labels[part], *changes]]
        for name, values, change in rows:
            table.append([f"  {name}", *values[part], *([change] if changes else [])])
        header, *lines = format_table(table, range(1, len(table[0])), width)
        yield Text.assemble("\n", (header, "bold"), "".join(f"\n{line}" for line in lines))


def _notes(comparison: Comparison, labels: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the notes of the runs; a note that several runs have is printed once."""
    labels_of_note: dict[str, list[str]] = {}
    for label, run in zip(labels, comparison.runs, strict=True):
        for note in dict.fromkeys(run.record.notes):
            labels_of_note.setdefault(note, []).append(label)
    if not labels_of_note:
        return
    yield Text("\nNotes", style="bold")
    all_runs = "both" if len(labels) == 2 else "all"
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note, found in sorted(labels_of_note.items(), key=lambda item: (len(item[1]), item[1])):
        runs = all_runs if len(found) == len(labels) else ", ".join(found)
        notes.add_row(Text(f"  {runs}:"), Text(safe_text(note)))
    yield notes


def draw_curves(runs: Sequence[LoadedRun], path: Path) -> None:
    """Draw accuracy and loss over the epochs, with a color for each run.

    Training is dashed, and validation solid.

    Args:
        runs: the runs, in the order of the legend.
        path: the PNG file to write.

    Raises:
        ConfigError: the curves can't be read, or the file can't be written.
    """
    if path.suffix != ".png":
        raise ConfigError(
            f"--curves={safe_text(str(path))} isn't a PNG file: choose a name that ends in .png"
        )
    for run in runs:
        if run.metrics.error:
            raise ConfigError(
                f"the curves of {safe_text(run.name)} can't be read, because "
                f"{safe_text(run.metrics.error)}: restore its metrics.csv, or leave out --curves"
            )
    # This import takes a second, and a comparison without curves doesn't need it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (title, *columns) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, run in enumerate(runs):
            for column, style in zip(columns, ("--", "-"), strict=True):
                points = [(row["epoch"], row[column]) for row in run.metrics.rows if column in row]
                axes.plot(
                    *zip(*points, strict=True) if points else ((), ()),
                    style,
                    color=f"C{number % 10}",
                    # A line through a single point is invisible.
                    marker="o" if len(points) == 1 else None,
                )
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = [
        *(axes.plot((), (), color=f"C{index % 10}")[0] for index in range(len(runs))),
        *(axes.plot((), (), style, color="gray")[0] for style in ("--", "-")),
    ]
    names = [*(safe_text(run.name) for run in runs), "training", "validation"]
    legend = figure.legend(handles, names, loc="outside upper center", ncols=2)
    for text in legend.get_texts():
        # A dollar sign in a name would start a formula.
        text.set_parse_math(False)
    try:
        write_atomically(path, png(figure))
    except OSError as error:
        raise ConfigError(
            f"{safe_text(str(path))} can't be written ({error.strerror}): choose another file with "
            "--curves"
        ) from error
