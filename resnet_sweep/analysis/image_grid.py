"""A figure of small images at chosen positions."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

Pixels = npt.NDArray[np.number[Any]]


class ImageGrid:
    """A figure with images, at positions and with sizes in inches from its upper left corner."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.axes.autoscale(False)
        self.text(width / 2, 0.25, title, fontsize=12)

    def image(self, x: float, y: float, size: float, pixels: Pixels, **style: Any) -> None:
        """Draw an image with its upper left corner at (x, y).

        Args:
            x, y, size: the corner, and the length of the longer side.
            pixels: (H, W, 3), colors, or (H, W), values that `style` maps to colors by `cmap`,
                `vmin` and `vmax`.
            style: arguments of matplotlib's `imshow`.
        """
        scale = size / max(pixels.shape[:2])
        right, bottom = x + scale * pixels.shape[1], y + scale * pixels.shape[0]
        self.axes.imshow(
            pixels, extent=(x, right, bottom, y), interpolation="nearest", aspect="auto", **style
        )

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a text, centered at (x, y)."""
        defaults: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        self.axes.text(x, y, text, **defaults | style)

    def colorbar(
        self, x: float, y: float, width: float, cmap: str, vmin: float, vmax: float
    ) -> None:
        """Draw a horizontal color bar with its upper left corner at (x, y)."""
        place = (x / self.width, 1 - (y + 0.1) / self.height, width / self.width, 0.1 / self.height)
        bar = self.figure.colorbar(
            ScalarMappable(Normalize(vmin, vmax), cmap),
            cax=self.figure.add_axes(place),
            orientation="horizontal",
            ticks=[vmin, vmax],
        )
        first, last = bar.ax.set_xticklabels([f"{vmin:.2g}", f"{vmax:.2g}"], fontsize=7)
        # The labels stay within the bar's width, so that those of neighbours don't overlap.
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
