"""Figures in a run directory, made small enough to be embedded in the report."""

import base64
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.safe_read import read_limited

# Folders of a run directory that have figures.
FOLDERS = ("evaluation", "features")
LARGEST_FILE = 16 * 2**20
# Pixels of the longer side, and bytes of an embedded figure.
LONGEST_SIDE = 1800
LARGEST_EMBEDDED = 150_000
COLORS = 256


def find_pictures(runs: Iterable[LoadedRun]) -> tuple[LoadedRun | None, list[dict[str, str]]]:
    """Return the figures of the first run that has any.

    Args:
        runs: in the order in which their figures are wanted.

    Returns:
        The run, None if no run has any, and the `title` and `data`, a URI, of each figure.
    """
    for run in runs:
        pictures = []
        for path in (path for folder in FOLDERS for path in _files(run.directory / folder)):
            if (uri := _embed(path)) is not None:
                pictures.append({"title": shown(path.stem.replace("_", " ")), "data": uri})
        if pictures:
            return run, pictures
    return None, []


def _files(folder: Path) -> list[Path]:
    """Return the PNG files in a folder, which must not be a link."""
    return [] if folder.is_symlink() else sorted(folder.glob("*.png"))


def _embed(path: Path) -> str | None:
    """Return a figure as a data URI, encoded anew from its pixels; None if it can't be read."""
    try:
        # Pillow warns of a file that decompresses to too many pixels, which is left out.
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            picture: Image.Image = Image.open(
                io.BytesIO(read_limited(path, LARGEST_FILE)), formats=("PNG",)
            )
            # It is made small before it gets four channels.
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            picture = picture.convert("RGBA")
    # Pillow raises errors of many types for a damaged file.
    except Exception:
        return None
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    side = LONGEST_SIDE
    while True:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        small = io.BytesIO()
        picture.quantize(COLORS).save(small, format="PNG", optimize=True)
        if small.tell() <= LARGEST_EMBEDDED:
            break
        side = max(picture.size) * 3 // 4
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
