"""A sheet of small pictures."""

from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure


class Sheet:
    """A figure on which pictures are put at places in inches, from its upper left corner.

    Args:
        width, height: in inches.
        title: above all.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.axes.autoscale(False)
        self.text(width / 2, 0.25, title, fontsize=12)

    def picture(self, x: float, y: float, size: float, pixels: np.ndarray, **style: Any) -> None:
        """Put a picture, (H, W) or (H, W, 3), with its upper left corner at (x, y).

        Args:
            x, y: in inches.
            size: of its longer side, in inches.
            pixels: colours, or values that `style` (`cmap`, `vmin`, `vmax`, `alpha`) colours.
            style: for matplotlib's `imshow`.
        """
        scale = size / max(pixels.shape[:2])
        right, bottom = x + scale * pixels.shape[1], y + scale * pixels.shape[0]
        self.axes.imshow(
            pixels, extent=(x, right, bottom, y), interpolation="nearest", aspect="auto", **style
        )

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a text whose middle is at (x, y)."""
        style = {"ha": "center", "va": "center", "fontsize": 8} | style
        self.axes.text(x, y, text, **style)

    def colorbar(
        self, x: float, y: float, width: float, cmap: str, vmin: float, vmax: float
    ) -> None:
        """Put a horizontal colour bar with its upper left corner at (x, y)."""
        place = (x / self.width, 1 - (y + 0.1) / self.height, width / self.width, 0.1 / self.height)
        bar = self.figure.colorbar(
            ScalarMappable(Normalize(vmin, vmax), cmap),
            cax=self.figure.add_axes(place),
            orientation="horizontal",
            ticks=[vmin, vmax],
        )
        first, last = bar.ax.set_xticklabels([f"{vmin:.2g}", f"{vmax:.2g}"], fontsize=7)
        # Within the bar's width, so that bars side by side have room for their labels.
        first.set_ha("left")
        last.set_ha("right")
