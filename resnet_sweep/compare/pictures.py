"""Pictures that a run's directory has, made small enough to be carried inside a page."""

import base64
import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import shown

# Folders of a run directory, and what to look for in them.
PLACES = (("evaluation", "*.png"), ("features", "*.png"))
MOST_PICTURES = 12
LARGEST_FILE = 16 * 2**20
MOST_PIXELS = 16 * 2**20
# In all pictures that are tried, so that many large ones don't take for ever.
MOST_PIXELS_TRIED = 6 * MOST_PIXELS
# The longer side of an embedded picture, and the bytes of one; half the side where it is more.
LONGEST_SIDE = 1800
LARGEST_EMBEDDED = 150_000
COLORS = 256


def find_pictures(entries: Iterable[Entry]) -> tuple[Entry | None, list[dict[str, str]]]:
    """The pictures of the first run that has any.

    Args:
        entries: the runs, in the order in which their pictures are wanted.

    Returns:
        The run, None if there is none, and of each picture its `title` and `data`, a URI.
    """
    left = MOST_PIXELS_TRIED
    for entry in entries:
        paths = [
            path for folder, pattern in PLACES for path in _files(entry.directory / folder, pattern)
        ]
        pictures = []
        for path in paths[:MOST_PICTURES]:
            picture = _open(path, min(MOST_PIXELS, left))
            if picture is None:
                continue
            left -= picture.width * picture.height
            if (uri := _embed(picture)) is not None:
                pictures.append({"title": shown(path.stem.replace("_", " ")), "data": uri})
        if pictures:
            return entry, pictures
    return None, []


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files in a folder that isn't a link."""
    return [] if folder.is_symlink() else sorted(folder.glob(pattern))


def _open(path: Path, most_pixels: int) -> Image.Image | None:
    """A picture of which only the head is read; None if it is too large or no PNG file."""
    try:
        # Neither a link nor a pipe, which would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
                return None
            content = file.read(LARGEST_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content), formats=("PNG",))
    # Pillow has errors of many kinds for a damaged file.
    except Exception:
        return None
    return picture if picture.width * picture.height <= most_pixels else None


def _embed(picture: Image.Image) -> str | None:
    """A picture as a data URI, drawn anew from its pixels; None if they can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Made small before it is given four channels.
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            picture = picture.convert("RGBA")
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
