"""Pictures of a run's metrics."""

from pathlib import Path

from resnet_sweep.picture import png
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.metrics import Row, read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.monitor import Monitor

# File, title of the y axis, and the columns with their names in the legend.
PLOTS = (
    ("accuracy.png", "accuracy, %", {"train_acc": "training", "val_acc": "validation"}),
    ("loss.png", "loss", {"train_loss": "training", "val_loss": "validation"}),
    ("lr.png", "learning rate", {"lr": "at the epoch's first step"}),
)


class Plots(Monitor):
    """Draws the curves of accuracy, loss and learning rate when a run ends."""

    def started(self, directory: Path, step: int) -> None:
        self.directory = directory

    def ended(self, record: Record) -> None:
        if rows := read_metrics(self.directory):
            draw(self.directory / "plots", rows)


def draw(directory: Path, rows: list[Row]) -> None:
    """Draw each of PLOTS into a directory, made if need be."""
    # Imported here because it takes a second that the start of a run needn't wait.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    directory.mkdir(exist_ok=True)
    epochs = [row["epoch"] for row in rows]
    for name, title, columns in PLOTS:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        for column, legend in columns.items():
            # A single epoch is a point, which a line wouldn't show.
            axes.plot(
                epochs,
                [row[column] for row in rows],
                label=legend,
                marker="o" if len(rows) == 1 else None,
            )
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
        write_atomically(directory / name, png(figure))
