"""Datasets of image files: a folder per class, and Tiny ImageNet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_sweep.data.array_cache import (
    Arrays,
    CachedDataset,
    Source,
    SplitDataset,
    cached_arrays,
    file_states,
)
from resnet_sweep.data.array_files import data_folder
from resnet_sweep.data.image_files import (
    EXTENSIONS,
    Channels,
    Decoder,
    PathFiles,
    Size,
    is_hidden,
    list_images,
)
from resnet_sweep.errors import ConfigError

# The images of a part, with their classes.
Listed = list[tuple[Path, str]]


@dataclass(frozen=True, kw_only=True)
class ImageFolder(SplitDataset):
    """Images in a folder for each class, whose name is the name of the class.

    `root` contains the folders `train`, and `val`, `test` or both, and these contain a folder for
    each class. Or `root`, or its only folder `train`, contains the folders of the classes, and
    `test_fraction` of the images of each class is used for the test set.

    Attributes:
        root: folder of the images.
        size, channels: see `Decoder`.
    """

    root: str | None = None
    size: Size | None = None
    channels: Channels | None = None

    def arrays(self) -> Arrays:
        """Return the arrays of the images."""
        if self.root is None:
            raise ConfigError(
                "data=image_folder needs data.root=FOLDER: name a folder that contains a folder of "
                "images for each class, or train/ and val/ or test/ with such folders"
            )
        root = Path(self.root).expanduser()
        folders = {folder.name: folder for folder in _subfolders(root)}
        tested = {name: folders[name] for name in ("val", "test") if name in folders}
        if "train" in folders and tested:
            used = {"train": folders["train"]} | tested
            parts = {name: _list_classes(folder) for name, folder in used.items()}
            _compare_classes(root, parts)
        else:
            only_train = folders.keys() == {"train"}
            parts = {"all": _list_classes(folders["train"] if only_train else root)}
            _refuse_folders_of_folders(folders)
        if len(classes := {name for listed in parts.values() for _, name in listed}) == 1:
            raise ConfigError(
                f"data.root={root} has images of one class, {classes.pop()}, but training needs at "
                "least two: choose another data.root, or add a folder for another class"
            )
        decoder = Decoder(self.size, self.channels)
        return _decoded("image_folder", root, parts, decoder)


@dataclass(frozen=True, kw_only=True)
class TinyImageNet(CachedDataset):
    """100,000 training and 10,000 validation images of 200 classes, 3x64x64.

    The validation images are the test set, because the labels of the test images aren't public. Le
    and Yang, 2015, "Tiny ImageNet Visual Recognition Challenge".

    Attributes:
        root: folder that contains tiny-imagenet-200, the unpacked archive; None for
            $RESNET_SWEEP_DATA, or ~/.cache/resnet_sweep if that isn't set.
        size: see `Decoder`.
    """

    root: str | None = None
    size: Size | None = None

    def arrays(self) -> Arrays:
        """Return the arrays of the images."""
        parent = data_folder() if self.root is None else Path(self.root).expanduser()
        root = parent / "tiny-imagenet-200"
        listed = root / "val" / "val_annotations.txt"
        if not listed.is_file():
            raise ConfigError(
                f"data=tiny_imagenet needs {root} with train/CLASS/images/, val/images/ and "
                "val/val_annotations.txt: unpack "
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip there, or choose another "
                "data.root"
            )
        train = [
            (path, folder.name)
            for folder in _subfolders(root / "train")
            for path in list_images(folder / "images")
        ]
        known = {name for _, name in train}
        test = []
        for number, line in enumerate(_lines(listed), start=1):
            name, _, rest = line.partition("\t")
            label = rest.partition("\t")[0]
            path = root / "val" / "images" / name
            if label not in known or not path.is_file():
                problem = f"{path} is missing" if label in known else f"train/ has no {label}/"
                raise ConfigError(
                    f"line {number} of {listed} doesn't fit ({problem}): unpack the archive again"
                )
            test.append((path, label))
        words = root / "words.txt"
        names = dict(line.split("\t", 1) for line in _lines(words) if "\t" in line)
        # The images of some classes include gray ones.
        decoder = Decoder(self.size, channels=3)
        titles = {name: names.get(name, name).partition(",")[0] for name in known}
        parts = {"train": train, "test": test}
        return _decoded("tiny_imagenet", root, parts, decoder, titles, extra=[listed, words])


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name.

    Raises:
        ConfigError: the folder can't be read, or contains images beside folders.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be read ({error.strerror}): set data.root to the folder of the images"
        ) from error
    folders = [entry for entry in entries if entry.is_dir()]
    images = [entry for entry in entries if entry.name.lower().endswith(EXTENSIONS)]
    if not folders or images:
        found = f"contains {images[0].name}" if images else "contains no folders"
        raise ConfigError(
            f"{folder} {found}, but it must contain a folder of images for each class: sort the "
            "images into folders, or choose another data.root"
        )
    return folders


def _list_classes(folder: Path) -> Listed:
    """Return the images in a folder for each class."""
    return [(path, entry.name) for entry in _subfolders(folder) for path in list_images(entry)]


def _refuse_folders_of_folders(folders: Mapping[str, Path]) -> None:
    """Raise ConfigError if all folders contain several folders, so that they can't be classes."""
    inner = {name: [*folder.iterdir()] for name, folder in folders.items()}
    nested = {
        name
        for name, entries in inner.items()
        if sum(entry.is_dir() for entry in entries) > 1
        and not any(entry.name.lower().endswith(EXTENSIONS) for entry in entries)
    }
    if len(folders) > 1 and nested == folders.keys():
        raise ConfigError(
            f"the folders {', '.join(folders)} in {next(iter(folders.values())).parent} contain "
            "folders, and aren't classes: name them train, and val or test, or choose another "
            "data.root"
        )


def _compare_classes(root: Path, parts: Mapping[str, Listed]) -> None:
    """Raise ConfigError if a part doesn't have the same classes as the training images."""
    known = {name for _, name in parts["train"]}
    for part, listed in parts.items():
        found = {name for _, name in listed}
        for name in sorted(known ^ found):
            has, lacks = ("train", part) if name in known else (part, "train")
            raise ConfigError(
                f"{root / has} has the class {name}, and {root / lacks} doesn't: rename or remove "
                "the folder of the class, or add the other one"
            )


def _decoded(
    name: str,
    root: Path,
    parts: Mapping[str, Listed],
    decoder: Decoder,
    titles: Mapping[str, str] | None = None,
    extra: list[Path] | None = None,
) -> Arrays:
    """Return the arrays of listed images.

    Args:
        name: name of the dataset.
        root: folder of the dataset.
        parts: the images of each part.
        decoder: decodes the images.
        titles: names of the classes for people; None for the names in `parts`.
        extra: other files that the arrays depend on.
    """
    listed = [entry for part in parts.values() for entry in part]
    paths = [path for path, _ in listed]
    classes = sorted({name for _, name in listed})

    def read() -> Source:
        shape, blocks = decoder.source(PathFiles(paths))
        labels = {name: label for label, name in enumerate(classes)}
        shown = [(titles or {}).get(name, name) for name in classes]
        return Source(
            shape=shape,
            labels=np.array([labels[name] for _, name in listed]),
            parts={part: len(entries) for part, entries in parts.items()},
            # Different classes may have the same first name.
            classes=shown if len({*shown}) == len(shown) else classes,
            blocks=blocks,
        )

    counts = {part: len(entries) for part, entries in parts.items()}
    states = file_states(root, [*(extra or ()), *paths])
    return cached_arrays(name, root, [counts, decoder.size, decoder.channels, states], read)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read ({error}): unpack the archive again") from error
