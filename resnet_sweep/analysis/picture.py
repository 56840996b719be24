"""A figure as a file."""

import io

from matplotlib.figure import Figure


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
