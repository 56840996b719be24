"""The runs that were made before, wherever they are."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from statistics import median

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import sign, typed

# What decides how long an epoch takes.
_COSTLY = ("model", "data", "augmentation")


class History:
    """The runs below some directories, looked up when they are first asked for.

    Args:
        roots: directories; those that don't exist have no runs.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = [root for root in roots if root.is_dir()]

    @cached_property
    def entries(self) -> list[Entry]:
        """All whose records are sound, newest first."""
        return [entry for entry in find_runs(self.roots) if entry.record is not None]

    @cached_property
    def _complete(self) -> dict[str, Entry]:
        return {
            entry.record.signature: entry
            for entry in reversed(self.entries)
            if entry.state in COMPLETE
        }

    def complete(self, signature: str) -> Entry | None:
        """A run that trained all that a signature stands for; the newest, if there are several."""
        entry = self._complete.get(signature)
        if entry is None:
            return None
        record = entry.record
        # The record may come from anywhere, so it is held against its own config.
        true = sign(record.config, record.precision or "", record.fingerprint or "")
        return entry if true == signature else None

    @cached_property
    def _epochs(self) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {}
        for entry in self.entries:
            record = entry.record
            if record.final and record.final["epoch"] and record.seconds:
                times.setdefault(_cost(record), []).append(record.seconds / record.final["epoch"])
        return times

    def seconds(self, planned: Record, epochs: float) -> float | None:
        """How long epochs of a run will take, by the median of runs like it; None without any."""
        times = self._epochs.get(_cost(planned))
        return median(times) * epochs if times else None


def _cost(record: Record) -> str:
    """The same for two runs whose epochs take equally long on one machine."""
    trainer = record.config.get("trainer", {})
    parts = [record.config.get(group) for group in _COSTLY]
    sizes = [trainer.get(name) for name in ("batch_size", "max_steps", "progressive_resizing")]
    return typed([*parts, *sizes, record.precision])
