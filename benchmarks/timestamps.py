"""A callback that records when a training starts, makes its first step, and ends its epochs."""

import json
import time
from pathlib import Path

from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record
from resnet_sweep.training.callbacks import Callback, Step

FILE = "timestamps.json"
# The override that adds the callback to a run.
TIMESTAMPS_OVERRIDE = "+logger.timestamps={_target_:benchmarks.timestamps.Timestamps}"


class Timestamps(Callback):
    """Writes `timestamps.json` into the run directory.

    It maps events to seconds of the system's monotonic clock, which all processes share:

    - `started`: right before the first batch is fetched.
    - `first_step`: steps are reported for the first time; in a run of one step, after that step.
    - `epoch_ended`: the last epoch is evaluated, saved and logged.
    - `ended`: the run has ended.
    """

    def on_train_start(self, directory: Path, step: int = 0) -> None:
        self.path = directory / FILE
        self.timestamps: dict[str, float] = {}
        self._record("started")

    def on_steps(self, steps: list[Step]) -> None:
        if "first_step" not in self.timestamps:
            self._record("first_step")

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self._record("epoch_ended")

    def on_train_end(self, record: Record) -> None:
        self._record("ended")

    def _record(self, event: str) -> None:
        self.timestamps[event] = time.monotonic()
        self.path.write_text(json.dumps(self.timestamps), encoding="utf-8")


def read_timestamps(directory: Path) -> dict[str, float]:
    """Return the timestamps of a run."""
    return json.loads((directory / FILE).read_text(encoding="utf-8"))
