"""A comparison of runs for people: its tables, and the curves of the runs in one figure."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from resnet_sweep.compare.comparison import OUTCOMES, PRECISION, Comparison
from resnet_sweep.compare.diff_columns import cells
from resnet_sweep.compare.format import format_table, shown
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.figures import png
from resnet_sweep.runs.files import write_atomically

# Characters that the column of a run needs; where the columns don't fit, there are several tables.
COLUMN_WIDTH = 10
LEAST_COLUMNS = 2
LONGEST_NAME = 30
# The panels of the figure: their titles, and the columns of training and validation.
PANELS = (("accuracy, %", "train_acc", "val_acc"), ("loss", "train_loss", "val_loss"))

# A row of a table: the name of what differs, the value in each run, and by how much the second
# run's is larger than the first's.
Row = tuple[str, Sequence[str], str]


def diff_view(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """Yield what to print: the runs' names, then what differs, and all outcomes of two runs."""
    labels = [chr(ord("A") + at) if at < 26 else str(at + 1) for at in range(len(comparison.runs))]
    for label, run in zip(labels, comparison.runs, strict=True):
        reason = f" ({shown(run.record.reason)})" if run.record.reason else ""
        yield Text(f"{label:3}{shown(run.name)}: {shown(run.state)}{reason}")

    settings = {name: values for name, values in comparison.settings.items() if name != PRECISION}
    yield from _tables("Choices", _differences(comparison.choices), labels, width)
    yield from _tables("Settings", _differences(settings), labels, width)
    if not comparison.settings:
        yield "\nAll settings that decide what is trained are the same."
    elif comparison.replicates:
        yield "  Only the seed differs."
    outcomes = [*_differences(comparison.states), *_outcomes(comparison)]
    yield from _tables("Outcome", outcomes, labels, width)
    yield from _tables("Environment", _differences(comparison.environment), labels, width)
    yield from _notes(comparison, labels)


def _differences(differences: Mapping[str, Sequence[Any]]) -> list[Row]:
    return [
        (name, values, "")
        for name, *values in cells(dict(sorted(differences.items())), "not there")
        # A group that is empty in one run is seen by the settings that it has in another.
        if not ("{}" in values and any(other.startswith(f"{name}.") for other in differences))
    ]


def _outcomes(comparison: Comparison) -> Iterator[Row]:
    for outcome in OUTCOMES:
        values = comparison.values(outcome)
        if len(values) > 2 and len(set(values)) == 1:
            continue
        change = ""
        if len(values) == 2:
            one, other = values
            if one is not None and other is not None:
                change = outcome.change(other - one) if other != one else "same"
        if any(value is not None for value in values):
            yield outcome.name, [outcome.text(value) for value in values], change


def _tables(
    title: str, rows: Sequence[Row], labels: Sequence[str], width: int
) -> Iterator[RenderableType]:
    """Yield a table with a column for each run, or several tables where the columns don't fit."""
    names = min(LONGEST_NAME, max((len(name) + 4 for name, *_ in rows), default=0))
    fitting = max(LEAST_COLUMNS, (width - names) // COLUMN_WIDTH)
    changes = [f"{labels[1]} - {labels[0]}"] if any(change for *_, change in rows) else []
    for start in range(0, len(labels) if rows else 0, fitting):
        part = slice(start, start + fitting)
        table = [[title, *labels[part], *changes]]
        for name, values, change in rows:
            table.append([f"  {name}", *values[part], *([change] if changes else [])])
        header, *lines = format_table(table, range(1, len(table[0])), width)
        yield Text.assemble("\n", (header, "bold"), "".join(f"\n{line}" for line in lines))


def _notes(comparison: Comparison, labels: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the notes of the runs; a note of several runs once."""
    owners: dict[str, list[str]] = {}
    for label, run in zip(labels, comparison.runs, strict=True):
        for note in dict.fromkeys(run.record.notes):
            owners.setdefault(note, []).append(label)
    if not owners:
        return
    yield Text("\nNotes", style="bold")
    everyone = "both" if len(labels) == 2 else "all"
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note, of in sorted(owners.items(), key=lambda item: (len(item[1]), item[1])):
        who = everyone if len(of) == len(labels) else ", ".join(of)
        notes.add_row(Text(f"  {who}:"), Text(shown(note)))
    yield notes


def draw_curves(runs: Sequence[LoadedRun], path: Path) -> None:
    """Draw accuracy and loss over the epochs: training dashed, validation solid, a color a run.

    Args:
        runs: the runs, in the order of the legend.
        path: the PNG file to write.

    Raises:
        ConfigError: the curves can't be read, drawn or written there.
    """
    if path.suffix != ".png":
        raise ConfigError(f"--curves={shown(str(path))} isn't a PNG file: name it FILE.png")
    for run in runs:
        if run.metrics.error:
            raise ConfigError(
                f"the curves of {shown(run.name)} can't be read ({shown(run.metrics.error)}): "
                "restore its metrics.csv, or leave out --curves"
            )
    # Importing matplotlib takes a second, which a comparison without curves doesn't have to wait.
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
                    # A line through a single point wouldn't be visible.
                    marker="o" if len(points) == 1 else None,
                )
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = [
        *(axes.plot((), (), color=f"C{at % 10}")[0] for at in range(len(runs))),
        *(axes.plot((), (), style, color="gray")[0] for style in ("--", "-")),
    ]
    names = [*(shown(run.name) for run in runs), "training", "validation"]
    legend = figure.legend(handles, names, loc="outside upper center", ncols=2)
    for text in legend.get_texts():
        # A dollar sign in a name would start a formula.
        text.set_parse_math(False)
    try:
        write_atomically(path, png(figure))
    except OSError as error:
        raise ConfigError(
            f"{shown(str(path))} can't be written ({error.strerror}): name another file with "
            "--curves"
        ) from error
