"""When a training begins, makes its first step, and has its epochs behind it."""

import json
import time
from pathlib import Path

from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record
from resnet_sweep.training.callbacks import Callback, Step

FILE = "stopwatch.json"
# Has a run write FILE, by a callback that its config names.
WORD = "+logger.stopwatch={_target_:benchmarks.stopwatch.Stopwatch}"


class Stopwatch(Callback):
    """Writes FILE into the run directory, with the moments of what it is told.

    Moments are seconds of the system's monotonic clock, which all processes share: `started`, right
    before the first batch is fetched; `stepped`, the first time that steps are told of, which in a
    run of a single step is when that is made; `epoch_ended`, when the last epoch so far is
    evaluated, saved and told to the other loggers; `ended`.
    """

    def on_train_start(self, directory: Path, step: int = 0) -> None:
        self.path = directory / FILE
        self.moments: dict[str, float] = {}
        self._stamp("started")

    def on_steps(self, steps: list[Step]) -> None:
        if "stepped" not in self.moments:
            self._stamp("stepped")

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self._stamp("epoch_ended")

    def on_train_end(self, record: Record) -> None:
        self._stamp("ended")

    def _stamp(self, event: str) -> None:
        self.moments[event] = time.monotonic()
        self.path.write_text(json.dumps(self.moments), encoding="utf-8")


def read_moments(directory: Path) -> dict[str, float]:
    """The moments of a run."""
    return json.loads((directory / FILE).read_text(encoding="utf-8"))
