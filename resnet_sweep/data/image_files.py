"""Decode image files to arrays of one shape."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from resnet_sweep.data.array_cache import BLOCK_BYTES
from resnet_sweep.data.dataset import UInt8Array
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.ranges import Count

# A height and width, or one number for both.
Size = Count | list[Count]
Channels = Literal[1, 3]
Shape = tuple[int, int, int]

# The names that torchvision's ImageFolder reads.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Pillow decodes these formats itself (MPO as JPEG). For others, such as EPS, it starts programs.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
# Formats in which a camera stores how it was held.
ORIENTED = ("JPEG", "MPO")
# Pillow's modes of gray images. The first of them have 16 bits.
GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")
GRAY = (*GRAY_16, "1", "L", "LA", "La")
# Number of files whose headers are read at a time, and largest number of images in a block. With
# larger blocks, the progress bar would move rarely.
HEADERS, BLOCK = 1024, 256

Result = TypeVar("Result")


class ImageFiles(Protocol):
    """A sequence of encoded images."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, index: int) -> str:
        """Return the name of an image for error messages."""

    def open(self, index: int) -> Path | IO[bytes]:
        """Return the path of an image, or a file object."""


@dataclass(frozen=True)
class PathFiles:
    """Images in files of their own."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path as text."""
        return str(self.paths[index])

    def open(self, index: int) -> Path:
        """Return the path."""
        return self.paths[index]


@dataclass(frozen=True)
class Decoder:
    """Decodes images to uint8 arrays of one shape.

    The orientation that a camera stores is applied. Transparency is dropped, as in torchvision's
    ImageFolder, and 16 bits per pixel are reduced to the upper 8. The first frame of a file with
    several is used.

    Attributes:
        size: height and width to resize to, or one number for both; None if all images have one
            size. The largest part in the center of an image with this aspect ratio is resized, with
            bilinear interpolation and antialiasing.
        channels: 1 for gray, 3 for RGB; None if all images are gray, or all are in color.

    Raises:
        ConfigError: `size` has a wrong number of entries.
    """

    size: Size | None = None
    channels: Channels | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, list) and len(self.size) != 2:
            raise ConfigError(
                f"data.size={self.size} must be one number, or a height and a width: [64, 96]"
            )

    def source(self, files: ImageFiles) -> tuple[Shape, Iterator[UInt8Array]]:
        """Return the shape of the decoded images, and the images in blocks, (n, C, H, W).

        Raises:
            ConfigError: a file can't be read, or the images differ in size or in color and the
                setting for it is None.
        """
        shape = self._shape(files)
        return shape, self._blocks(files, shape)

    def _shape(self, files: ImageFiles) -> Shape:
        height_width = [self.size] * 2 if isinstance(self.size, int) else self.size
        if height_width is not None and self.channels is not None:
            return self.channels, height_width[0], height_width[1]
        first: tuple[int, int, bool] | None = None
        for index, found in enumerate(
            chain.from_iterable(
                _in_threads(lambda index: _read(files, index, _header), part)
                for part in _parts(len(files), HEADERS)
            )
        ):
            first = first or found
            if height_width is None and found[:2] != first[:2]:
                raise ConfigError(
                    f"{files.name(0)} has {first[1]}x{first[0]} pixels and {files.name(index)} has "
                    f"{found[1]}x{found[0]}: resize all images with data.size=HEIGHT or "
                    "data.size=[HEIGHT,WIDTH]"
                )
            if self.channels is None and found[2] != first[2]:
                kinds = ["gray" if gray else "in color" for gray in (first[2], found[2])]
                raise ConfigError(
                    f"{files.name(0)} is {kinds[0]} and {files.name(index)} is {kinds[1]}: choose "
                    "data.channels=3 to make all images RGB, or data.channels=1 to make them gray"
                )
        assert first is not None
        height, width = height_width or first[:2]
        return self.channels or (1 if first[2] else 3), height, width

    def _blocks(self, files: ImageFiles, shape: Shape) -> Iterator[UInt8Array]:
        resizes = self.size is not None
        for part in _parts(len(files), max(1, min(BLOCK, BLOCK_BYTES // int(np.prod(shape))))):
            yield np.stack(
                _in_threads(
                    lambda index: _read(files, index, lambda image: _decode(image, shape, resizes)),
                    part,
                )
            )


def _parts(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def _in_threads(function: Callable[[int], Result], indices: range) -> list[Result]:
    """Return the results of a function of an index, in order. Pillow decodes without the GIL."""
    with (
        warnings.catch_warnings(action="ignore"),
        ThreadPoolExecutor(torch.get_num_threads()) as executor,
    ):
        return list(executor.map(function, indices))


def _read(files: ImageFiles, index: int, function: Callable[[Image.Image], Result]) -> Result:
    """Return what a function reads from an image, and name the image in an error."""
    try:
        with Image.open(files.open(index), formats=FORMATS) as image:
            return function(image)
    # Pillow raises errors of many types for a damaged file.
    except Exception as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content has none of the formats {', '.join(FORMATS)}"
        raise ConfigError(
            f"{files.name(index)} can't be read ({reason}): restore, convert or remove the image"
        ) from error


def _header(image: Image.Image) -> tuple[int, int, bool]:
    """Return the height and width of an image, and whether it is gray, without decoding it."""
    width, height = image.size
    if image.format in ORIENTED and image.getexif().get(0x0112, 1) >= 5:
        # These orientations are turned by 90 degrees.
        width, height = height, width
    return height, width, image.mode in GRAY


def _decode(image: Image.Image, shape: Shape, resizes: bool) -> UInt8Array:
    channels, height, width = shape
    if resizes:
        # A JPEG file can be decoded to a fraction of its size, which is much faster.
        image.draft(None, (2 * max(height, width), 2 * max(height, width)))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits per pixel, and at most 16 are supported")
    if image.format in ORIENTED:
        image = ImageOps.exif_transpose(image)
    if image.mode in GRAY_16:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        if not resizes:
            raise ValueError(f"it has {image.width}x{image.height} pixels")
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def is_hidden(name: str) -> bool:
    """Return whether a system made a file or folder, as `.DS_Store`."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini")


def list_images(folder: Path) -> list[Path]:
    """Return the images in a folder and its subfolders, in the order of torchvision's ImageFolder.

    Raises:
        ConfigError: a file isn't an image, there is none, or a folder can't be read.
    """

    def refuse(error: OSError) -> None:
        raise ConfigError(f"{error.filename} can't be read ({error.strerror}): make it readable")

    paths = []
    for parent, _, names in sorted(os.walk(folder, onerror=refuse, followlinks=True)):
        for name in sorted(names):
            if is_hidden(name):
                continue
            if not name.lower().endswith(EXTENSIONS):
                raise ConfigError(
                    f"{Path(parent, name)} isn't an image file (its name ends in none of "
                    f"{', '.join(EXTENSIONS)}): remove it from the folder"
                )
            paths.append(Path(parent, name))
    if not paths:
        raise ConfigError(f"{folder} has no images: add images, or remove the folder")
    return paths
