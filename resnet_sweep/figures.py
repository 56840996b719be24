"""Grids of small images as figures, and figures as PNG files."""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

# Importing matplotlib is slow, so only the functions that need it import it.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    Pixels = npt.NDArray[np.uint8]

# In pixels: the approximate width of an image, and the space around it.
IMAGE, GAP, MARGIN = 160, 12, 30
# In pixels: the height of a line of text, and the width of a letter.
LINE, LETTER = 16, 8
DPI = 100
FONT_SIZE = 9

# Matplotlib logs that it builds its list of fonts when it is used for the first time.
logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)


@dataclass
class ImageRow:
    """Images side by side, with a title on the left and a caption below each.

    Each image is (H, W, 3), or (H, W, 1) if it is gray.
    """

    title: str
    images: "list[Pixels]"
    captions: list[str]


def draw_rows(
    rows: Sequence[ImageRow], title: str = "", columns: int | None = None, size: int = IMAGE
) -> bytes:
    """Return a PNG file of rows of images, each scaled by a whole number.

    Args:
        rows: rows of equal length.
        title: text above them.
        columns: number of images side by side, with the rest drawn below; None for all images.
        size: approximate width of an image, in pixels.
    """
    from matplotlib.figure import Figure

    def enlarge(image: "Pixels") -> "Pixels":
        zoom = max(1, size // image.shape[1])
        return image.repeat(zoom, 0).repeat(zoom, 1).repeat(3 // image.shape[2], 2)

    length = len(rows[0].images)
    columns = min(columns or length, length)
    bands = [
        ImageRow(row.title, [enlarge(image) for image in row.images[part]], row.captions[part])
        for part in (slice(start, start + columns) for start in range(0, length, columns))
        for row in rows
    ]
    cell = max(image.shape[1] for row in bands for image in row.images)
    # The height of a row includes its longest caption; its title is in the margin.
    heights = [max(map(len, row.images)) for row in bands]
    lines = [max(len(caption.splitlines()) for caption in row.captions) for row in bands]
    head = title.splitlines()
    across = MARGIN + max(columns * (cell + GAP), LETTER * max(map(len, head), default=0))
    down = GAP + LINE * len(head) + sum(heights) + LINE * sum(lines) + GAP * len(bands)
    figure = Figure((across / DPI, down / DPI), dpi=DPI, facecolor="white")
    # Positions are in pixels, and matplotlib counts from the bottom.
    style: dict[str, Any] = {"transform": None, "ha": "center", "fontsize": FONT_SIZE}
    title_style = style | {"fontsize": FONT_SIZE + 1, "color": "0.35"}
    for number, line in enumerate(head, start=1):
        figure.text(across / 2, down - number * LINE, line, **title_style)
    top = down - GAP - LINE * len(head)
    for row, height, count in zip(bands, heights, lines, strict=True):
        bottom, middle = top - height, top - height / 2
        figure.text(MARGIN / 2, middle, row.title, rotation=90, va="center", **title_style)
        for column, (image, caption) in enumerate(zip(row.images, row.captions, strict=True)):
            left = MARGIN + column * (cell + GAP)
            figure.figimage(image, left, top - len(image), origin="upper")
            for number, line in enumerate(caption.splitlines(), start=1):
                figure.text(left + cell / 2, bottom - number * LINE, line, **style)
        top -= height + LINE * count + GAP
    return png(figure, DPI)


def png(figure: "Figure", dpi: int = 120) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
