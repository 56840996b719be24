"""Plots of a run's metrics."""

from pathlib import Path

from resnet_sweep.figures import png
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.callbacks.callback import Callback

# File name, label of the y axis, and the columns with their labels in the legend.
PLOTS = (
    ("accuracy.png", "accuracy, %", {"train_acc": "training", "val_acc": "validation"}),
    ("loss.png", "loss", {"train_loss": "training", "val_loss": "validation"}),
    ("lr.png", "learning rate", {"lr": "at the epoch's first step"}),
)


class Plots(Callback):
    """Plots accuracy, loss and learning rate over the epochs when a run ends."""

    def on_train_start(self, directory: Path, step: int) -> None:
        self.directory = directory

    def on_train_end(self, record: Record) -> None:
        rows = read_metrics(self.directory)
        if not rows:
            return
        # This import takes a second, which would delay the start of a run.
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        folder = self.directory / "plots"
        folder.mkdir(exist_ok=True)
        epochs = [row["epoch"] for row in rows]
        # A line through a single point is invisible.
        marker = "o" if len(rows) == 1 else None
        for name, title, columns in PLOTS:
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            axes = figure.subplots()
            for column, legend in columns.items():
                axes.plot(epochs, [row[column] for row in rows], label=legend, marker=marker)
            axes.set(xlabel="epoch", ylabel=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.legend()
            write_atomically(folder / name, png(figure))
