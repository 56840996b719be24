"""A dataset of the Hugging Face Hub, or in a folder that the datasets library has written."""

import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from resnet_sweep.data.array_cache import Arrays, Source, SplitDataset, cached_arrays, file_states
from resnet_sweep.data.dataset import IndexArray
from resnet_sweep.data.image_files import Channels, Decoder, Size
from resnet_sweep.errors import ConfigError, one_line

# The names of columns in most datasets of the Hub.
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label")
# The Hub's names of the parts.
SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class HuggingFace(SplitDataset):
    """Images of a dataset on the Hugging Face Hub, or of one that `save_to_disk` wrote.

    Its splits `train`, `validation` and `test` are used. If `train` is the only one of them,
    `test_fraction` of the images of each class is used for the test set.

    Attributes:
        name: name of a dataset on the Hub, such as "ylecun/mnist".
        root: folder that the method `save_to_disk` of a dataset wrote.
        config_name: name of a configuration of the Hub's dataset; None for the only one.
        revision: commit, tag or branch of the Hub's dataset; None for the newest version.
        image_column, label_column: columns of the images and labels; None to look for columns with
            common names.
        size, channels: see `Decoder`.
    """

    name: str | None = None
    root: str | None = None
    config_name: str | None = None
    revision: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    size: Size | None = None
    channels: Channels | None = None

    def arrays(self) -> Arrays:
        """Return the arrays of the images."""
        splits = self._load()
        if "train" not in splits:
            raise ConfigError(
                f"{self._title} has the splits {', '.join(splits)}, and no train: choose another "
                "dataset"
            )
        parts = {part: splits[split] for part, split in SPLITS.items() if split in splits}
        if len(parts) == 1:
            parts = {"all": parts["train"]}
        features = splits["train"].features
        image = self._column(features, "image_column", IMAGE_COLUMNS)
        label = self._column(features, "label_column", LABEL_COLUMNS)
        paths = [Path(file["filename"]) for part in parts.values() for file in part.cache_files]
        root = Path(self.root or self.name or "").expanduser()
        counts = {part: len(split) for part, split in parts.items()}
        identity = [counts, image, label, self.size, self.channels, file_states(root, paths)]
        decoder = Decoder(self.size, self.channels)

        def read() -> Source:
            files = TableFiles.of(self._title, image, parts.values())
            shape, blocks = decoder.source(files)
            labels, classes = self._labels(list(parts.values()), label)
            return Source(shape, labels, counts, classes, blocks)

        return cached_arrays("huggingface", root, identity, read)

    @property
    def _title(self) -> str:
        return f"data.root={self.root}" if self.name is None else f"data.name={self.name}"

    def _load(self) -> Mapping[str, Any]:
        """Return the splits of the dataset."""
        if (self.name is None) == (self.root is None):
            raise ConfigError(
                "data=huggingface needs either data.name or data.root: set data.name to a dataset "
                "on the Hub, or data.root to a folder that save_to_disk wrote"
            )
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ConfigError(
                "data=huggingface needs the package datasets: pip install "
                "'resnet-sweep[huggingface]'"
            ) from error
        # Otherwise, the library prints a warning for each of its attempts to reach the Hub.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            if self.name is None:
                loaded = datasets.load_from_disk(str(Path(self.root or "").expanduser()))
            else:
                loaded = datasets.load_dataset(self.name, self.config_name, revision=self.revision)
        # The library, and those that it uses, raise errors of many types.
        except Exception as error:
            raise ConfigError(
                f"{self._title} can't be loaded ({one_line(error)}): correct the name, connect to "
                "a network, or name a folder that save_to_disk wrote with data.root"
            ) from error
        return loaded if isinstance(loaded, Mapping) else {"train": loaded}

    def _column(self, features: Mapping[str, Any], setting: str, common: tuple[str, ...]) -> str:
        """Return the name of a column."""
        named = getattr(self, setting)
        names = [name for name in ((named,) if named else common) if name in features]
        if not names:
            looked = f"data.{setting}={named}" if named else " or ".join(common)
            raise ConfigError(
                f"{self._title} has the columns {', '.join(features)}, and not {looked}: choose "
                f"one with data.{setting}"
            )
        kind = type(features[names[0]]).__name__
        if (kind == "Image") != (setting == "image_column"):
            raise ConfigError(
                f"the column {names[0]} of {self._title} has the type {kind}: choose another with "
                f"data.{setting}"
            )
        return names[0]

    def _labels(self, splits: list[Any], column: str) -> tuple[IndexArray, list[str]]:
        """Return the labels of all images, (N,), int64, and the names of the classes."""
        values = [value for split in splits for value in split.select_columns([column])[:][column]]
        names = getattr(splits[0].features[column], "names", None)
        if names is None and all(isinstance(value, str) for value in values):
            names = sorted({*values})
            labels = {name: label for label, name in enumerate(names)}
            values = [labels[value] for value in values]
        if not all(isinstance(value, int) and value >= 0 for value in values):
            raise ConfigError(
                f"the column {column} of {self._title} must have a class for each image, as text "
                "or as a number from 0: choose another with data.label_column"
            )
        if names is None:
            names = [str(label) for label in range(max(values) + 1)]
        return np.array(values, dtype=np.int64), names


@dataclass(frozen=True)
class TableFiles:
    """Encoded images in a column of the datasets library's tables.

    Attributes:
        title: name of the dataset for error messages.
        column: the column.
        splits: the tables.
    """

    title: str
    column: str
    splits: list[Any]

    @classmethod
    def of(cls, title: str, column: str, splits: Iterable[Any]) -> Self:
        """Return the images of some tables."""
        import datasets

        encoded = datasets.Image(decode=False)
        columns = (split.select_columns([column]) for split in splits)
        return cls(title, column, [split.cast_column(column, encoded) for split in columns])

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def name(self, index: int) -> str:
        """Return the number of an image."""
        return f"image {index} of {self.title}"

    def open(self, index: int) -> Path | IO[bytes]:
        """Return the content of an image, or the path if the table contains only this."""
        for split in self.splits:
            if index < len(split):
                break
            index -= len(split)
        entry = split[index][self.column]
        if entry is None:
            raise ValueError("it is missing")
        return Path(entry["path"]) if entry["bytes"] is None else io.BytesIO(entry["bytes"])
