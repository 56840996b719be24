"""A figure as a file."""

import io
from typing import TYPE_CHECKING

# Whoever has a figure has imported it, which takes a moment that others needn't wait.
if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(figure: "Figure", dpi: int = 120) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
