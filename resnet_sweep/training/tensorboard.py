"""TensorBoard events."""

from pathlib import Path

from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row, best_row, read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import flatten, is_incidental, typed
from resnet_sweep.training.monitor import Monitor, Step


class TensorBoard(Monitor):
    """Writes learning rate, loss and gradient norm of each step, the metrics of each epoch and of
    the best one so far, each layer's norms of gradient, weights and update, and the settings by
    which the HPARAMS tab compares runs."""

    def started(self, directory: Path, step: int) -> None:
        # Imported here because it takes a second that a run without it needn't wait.
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.rows = read_metrics(directory)

        # What a killed process wrote after its last checkpoint will be written again.
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step)
        # Without an experiment summary, which would hold for all runs of a folder, TensorBoard
        # finds the settings of all of them, and shows first those that differ.
        _, begin, self.end = hparams(hyperparameters(Record.read(directory)), {})
        self.writer.file_writer.add_summary(begin)

    def stepped(self, steps: list[Step]) -> None:
        for step in steps:
            self.writer.add_scalar("step/lr", step.lr, step.global_step)
            self.writer.add_scalar("step/train_loss", step.loss, step.global_step)
            self.writer.add_scalar("step/grad_norm", step.grad_norm, step.global_step)

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(f"epoch/{name}", value, step - 1)
        self.rows.append(row)
        best = best_row(self.rows)
        for name in ("epoch", "val_acc", "val_loss"):
            self.writer.add_scalar(f"best/{name}", best[name], step - 1)
        for layer in layers:
            for kind, norm in zip(Layer._fields[1:], layer[1:], strict=True):
                self.writer.add_scalar(f"layer_{kind}/{layer.name}", norm, step - 1)
        self.writer.flush()

    def ended(self, record: Record) -> None:
        # TensorBoard believes the first end that it reads, so a run that may go on has none.
        if record.ended_for_good and record.state != "diverged":
            self.writer.file_writer.add_summary(self.end)
        self.writer.close()


def hyperparameters(record: Record) -> dict[str, float | str]:
    """What tells one run from another: the choice of each group, and the settings.

    Without those that are None, for which TensorBoard has no type: as a word it would make words
    of the numbers that other runs have there.
    """
    settings = dict(flatten(record.config)) | record.choices | {"precision": record.precision}
    return {
        name: value if type(value) in (int, float) else typed(value)
        for name, value in settings.items()
        if value is not None and not name.endswith("_target_") and not is_incidental(name)
    }
