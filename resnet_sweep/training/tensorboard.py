"""TensorBoard events."""

from pathlib import Path

from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record
from resnet_sweep.training.monitor import Monitor, Step


class TensorBoard(Monitor):
    """Writes learning rate, loss and gradient norm of each step, the metrics of each epoch, and
    each layer's norms of gradient, weights and update."""

    def started(self, directory: Path, step: int) -> None:
        # Imported here because it takes a second that a run without it needn't wait.
        from torch.utils.tensorboard import SummaryWriter

        # What a killed process wrote after its last checkpoint will be written again.
        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=step)

    def stepped(self, steps: list[Step]) -> None:
        for step in steps:
            self.writer.add_scalar("step/lr", step.lr, step.global_step)
            self.writer.add_scalar("step/train_loss", step.loss, step.global_step)
            self.writer.add_scalar("step/grad_norm", step.grad_norm, step.global_step)

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        for name, value in row.items():
            if name != "epoch":
                self.writer.add_scalar(f"epoch/{name}", value, step - 1)
        for layer in layers:
            for kind, norm in zip(Layer._fields[1:], layer[1:], strict=True):
                self.writer.add_scalar(f"layer_{kind}/{layer.name}", norm, step - 1)
        self.writer.flush()

    def ended(self, record: Record) -> None:
        self.writer.close()
