"""Figures as PNG files."""

import io
import logging
from typing import TYPE_CHECKING

# Importing matplotlib takes a moment, which callers without a figure don't have to wait.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Matplotlib logs as information that it made its list of fonts, the first time that it is used.
logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)


def png(figure: "Figure", dpi: int = 120) -> bytes:
    """Return a figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
