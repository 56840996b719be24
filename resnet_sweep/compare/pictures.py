"""Pictures that a run's directory has, made small enough to be carried inside a page."""

import base64
import io
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from resnet_sweep.compare.collection import Entry
from resnet_sweep.compare.text import shown

# Folders of a run directory, and what to look for in them.
PLACES = (("evaluation", "*.png"), ("features", "*.png"))
MOST_PICTURES = 12
LARGEST_FILE = 16 * 2**20
MOST_PIXELS = 64 * 2**20
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
    for entry in entries:
        paths = [
            path for folder, pattern in PLACES for path in _files(entry.directory / folder, pattern)
        ]
        pictures = [
            {"title": shown(path.stem.replace("_", " ")), "data": uri}
            for path in paths[:MOST_PICTURES]
            if (uri := _embed(path)) is not None
        ]
        if pictures:
            return entry, pictures
    return None, []


def _files(folder: Path, pattern: str) -> list[Path]:
    """Files in a folder that isn't a link."""
    return [] if folder.is_symlink() else sorted(folder.glob(pattern))


def _embed(path: Path) -> str | None:
    """A picture as a data URI, drawn anew from its pixels; None if it isn't a sound PNG file."""
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
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture = picture.convert("RGBA")
    # Pillow has errors of many kinds for a damaged file.
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
