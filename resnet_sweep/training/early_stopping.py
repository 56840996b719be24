"""When a run has been trained enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from resnet_sweep.ranges import Count, Range
from resnet_sweep.runs.metrics import Metric, Row, gain


@dataclass(frozen=True)
class EarlyStopping:
    """Ends a run before its schedule does, which keeps its length.

    Attributes:
        epoch: the last one to be trained; None for no such limit.
        patience: epochs in a row without an improvement (Prechelt, 1998, "Early Stopping - But
            When?"); None for any number of them.
        metric: what is to improve.
        min_delta: by how much more than this, in the metric's unit.
    """

    epoch: Count | None = None
    patience: Count | None = None
    metric: Metric = "val_acc"
    min_delta: Annotated[float, Range(minimum=0)] = 0.0

    def reason(self, rows: Sequence[Row]) -> str | None:
        """Why no epoch should follow these; None if one should."""
        if self.epoch is not None and len(rows) >= self.epoch:
            return f"trainer.early_stopping.epoch={self.epoch} is reached"
        if self.patience is None or not rows:
            return None
        best, waited = rows[0], 0
        for row in rows[1:]:
            if gain(self.metric, row[self.metric], best[self.metric]) > self.min_delta:
                best, waited = row, 0
            else:
                waited += 1
        if waited < self.patience:
            return None
        return (
            f"{self.metric} hasn't improved for {waited} epochs since epoch {best['epoch']} "
            f"({best[self.metric]:.4g})"
        )
