"""Train with Lightning's Trainer, which the benchmarks compare with `python -m resnet_sweep`.

python -m benchmarks.lightning_loop --model resnet8v2 --images 4096 --epochs 1 --device cpu

Most Hydra templates use this Trainer. Data, network and recipe are the same as in
`benchmarks.plain_loop`. Lightning logs to TensorBoard, saves checkpoints of the best and the last
epoch, and shows no progress bar. `timestamps.json` is written into the current folder.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_loop import Recipe, make_loaders, run_loop
from benchmarks.timestamps import Timestamps

try:
    import lightning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} isn't installed: run pip install 'resnet-sweep[benchmarks]'"
    ) from error


class Classifier(lightning.LightningModule):
    """The model, its training and validation steps, and its optimizer."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.optimizer, self.epochs = recipe.model, recipe.optimizer, recipe.epochs

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self._log_loss("train", batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self._log_loss("val", batch)

    def _log_loss(self, split: str, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = 100 * (logits.argmax(1) == labels).float().mean()
        self.log(f"{split}_loss", loss, on_epoch=True)
        self.log(f"{split}_acc", accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs)
        return {"optimizer": self.optimizer, "lr_scheduler": schedule}


class TimestampsCallback(Callback):
    """Records the time before the first batch and after the last checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.timestamps = folder, Timestamps()

    def on_train_start(self, *_: Any) -> None:
        self.timestamps.on_train_start(self.folder)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.timestamps.on_epoch_end({}, [], trainer.global_step)


def train(recipe: Recipe, device: torch.device, folder: Path) -> int:
    """Train, write the results into a folder, and return the number of training steps."""
    on_gpu = device.type == "cuda"
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        callbacks=[
            TimestampsCallback(folder),
            ModelCheckpoint(folder / "checkpoints", monitor="val_acc", mode="max", save_last=True),
        ],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(recipe), *make_loaders(recipe, pinned=on_gpu))
    return trainer.global_step


def main() -> None:
    """Train with Lightning's Trainer."""
    run_loop("lightning_loop", __doc__, train)


if __name__ == "__main__":
    main()
