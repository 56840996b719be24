"""The TensorBoard logger."""

from pathlib import Path
from typing import Any

from resnet_sweep.runs.metrics import (
    LayerNorms,
    Row,
    best_row,
    read_layer_norms,
    read_metrics,
)
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import flatten, format_setting, is_incidental
from resnet_sweep.training.callbacks.callback import Callback, Step


class TensorBoard(Callback):
    """Writes TensorBoard events of a run.

    The events contain the learning rate, loss and gradient norm of each step; the metrics of each
    epoch and of the best epoch so far; the norms of each layer's gradient, weights and update; and
    the settings, by which the HPARAMS tab compares runs.
    """

    def on_train_start(self, directory: Path, step: int) -> None:
        # This import takes a second, and runs without TensorBoard don't need it.
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        record, rows = Record.read(directory), read_metrics(directory)
        is_first_start = not any((directory / "tensorboard").glob("events.*"))
        shared = record.shared_epochs["epochs"] if record.shared_epochs else 0
        # Steps after the last checkpoint of a killed process are trained again, so their events
        # are discarded.
        writer: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=step)
        # An experiment summary would apply to all runs in a folder. Without one, TensorBoard
        # collects the settings of the runs itself, and lists those that differ first.
        settings = hyperparameters(record)
        _, session_start, self.session_end = hparams(settings, {})
        writer.file_writer.add_summary(session_start)
        self.writer = writer
        self.rows: list[dict[str, float]] = []
        if is_first_start and shared and len(rows) == shared:
            # Another run has trained these epochs.
            for row, layers in zip(rows, read_layer_norms(directory), strict=True):
                self.on_epoch_end(row, layers, int(row["epoch"]) * step // shared)
        self.rows = rows

    def on_steps(self, steps: list[Step]) -> None:
        for step in steps:
            self.writer.add_scalar("step/lr", step.lr, step.global_step)
            self.writer.add_scalar("step/train_loss", step.loss, step.global_step)
            self.writer.add_scalar("step/grad_norm", step.grad_norm, step.global_step)

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.rows.append(dict(row))
        values = {f"epoch/{name}": value for name, value in row.items() if name != "epoch"}
        if best := best_row(self.rows):
            values |= {f"best/{name}": best[name] for name in ("epoch", "val_acc", "val_loss")}
        for layer in layers:
            values[f"layer_grad_norm/{layer.name}"] = layer.grad_norm
            values[f"layer_weight_norm/{layer.name}"] = layer.weight_norm
            values[f"layer_update_norm/{layer.name}"] = layer.update_norm
        for name, value in values.items():
            self.writer.add_scalar(name, value, step - 1)
        self.writer.flush()

    def on_train_end(self, record: Record) -> None:
        # If a session has several ends, TensorBoard uses the first one. So no end is written for a
        # run that may be resumed.
        if record.has_ended and record.state != "diverged":
            self.writer.file_writer.add_summary(self.session_end)
        self.writer.close()


def hyperparameters(record: Record) -> dict[str, float | str]:
    """Return the settings and choices of a run that the HPARAMS tab shows.

    Settings that are None are left out, because TensorBoard has no type for None, and a text in
    its place would make TensorBoard treat the numbers of other runs as text.
    """
    settings = dict(flatten(record.config)) | record.choices | {"precision": record.precision}
    return {
        name: value if type(value) in (int, float) else format_setting(value)
        for name, value in settings.items()
        if value is not None and not name.endswith("_target_") and not is_incidental(name)
    }
