"""Where a training is, for others to read in the record of its run."""

import time
from pathlib import Path

from resnet_sweep.runs.run import Run
from resnet_sweep.training.monitor import Monitor, Step


class Whereabouts(Monitor):
    """Keeps `run.progress` true: epoch, step and speed, which go to `run.json` with the lease.

    Args:
        run: that is trained.
        steps: in an epoch.
    """

    def __init__(self, run: Run, steps: int) -> None:
        self.run, self.steps = run, steps

    def started(self, directory: Path, step: int) -> None:
        self.images, self.begun = 0, time.monotonic()

    def stepped(self, steps: list[Step]) -> None:
        self.images += sum(step.images for step in steps)
        self.run.progress = {
            "epoch": steps[-1].epoch,
            "step": steps[-1].step + 1,
            "steps": self.steps,
            "images_per_second": self.images / max(time.monotonic() - self.begun, 1e-9),
        }
