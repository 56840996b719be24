"""The curves of several runs in one picture."""

from collections.abc import Sequence
from pathlib import Path

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.picture import png
from resnet_sweep.runs.files import write_atomically

PANELS = (("accuracy, %", "train_acc", "val_acc"), ("loss", "train_loss", "val_loss"))


def draw_curves(entries: Sequence[Entry], path: Path) -> None:
    """Draw accuracy and loss over the epochs: training dashed, validation solid, a color a run.

    Args:
        entries: of the runs.
        path: of the picture, which is a PNG.

    Raises:
        RequestError: it can't be drawn or written there.
    """
    if path.suffix != ".png":
        raise RequestError(f"--curves={shown(str(path))} isn't a picture: name it FILE.png")
    for entry in entries:
        if entry.metrics.damage:
            raise RequestError(
                f"{shown(entry.name)} has no sound curves ({shown(entry.metrics.damage)}): put a "
                "sound metrics.csv there, or leave out --curves"
            )
    # Imported here because it takes a second that a comparison without pictures needn't wait.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, (title, train, validation) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for number, entry in enumerate(entries):
            for column, style in ((train, "--"), (validation, "-")):
                points = [
                    (row["epoch"], row[column]) for row in entry.metrics.rows if column in row
                ]
                axes.plot(
                    *zip(*points, strict=True) if points else ((), ()),
                    style,
                    color=f"C{number % 10}",
                    # A single epoch is a point, which a line wouldn't show.
                    marker="o" if len(points) == 1 else None,
                )
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles = [
        *(axes.plot((), (), color=f"C{at % 10}")[0] for at in range(len(entries))),
        *(axes.plot((), (), style, color="gray")[0] for style in ("--", "-")),
    ]
    names = [*(shown(entry.name) for entry in entries), "training", "validation"]
    legend = figure.legend(handles, names, loc="outside upper center", ncols=2)
    for text in legend.get_texts():
        # A dollar in a name is no formula.
        text.set_parse_math(False)
    try:
        write_atomically(path, png(figure))
    except OSError as error:
        raise RequestError(
            f"{shown(str(path))} can't be written ({error.strerror}): name another file with "
            "--curves"
        ) from error
