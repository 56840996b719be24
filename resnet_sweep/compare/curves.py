"""The learning curves of several runs in one figure."""

from collections.abc import Sequence
from pathlib import Path

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.picture import png
from resnet_sweep.runs.files import write_atomically

PANELS = (("accuracy, %", "train_acc", "val_acc"), ("loss", "train_loss", "val_loss"))


def draw_curves(runs: Sequence[LoadedRun], path: Path) -> None:
    """Draw accuracy and loss over the epochs: training dashed, validation solid, a color a run.

    Args:
        runs: whose curves are drawn.
        path: of the PNG file to write.

    Raises:
        ConfigError: it can't be drawn or written there.
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
    for axes, (title, train, validation) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, run in enumerate(runs):
            for column, style in ((train, "--"), (validation, "-")):
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
