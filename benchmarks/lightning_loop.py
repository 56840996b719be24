"""Lightning's Trainer, the usual engine under templates for Hydra, to compare with.

python -m benchmarks.lightning_loop --model resnet8v2 --images 4096 --epochs 1 --device cpu

The data, the network and the recipe are those of `benchmarks.plain_loop`, with Lightning's own
TensorBoard logger, checkpoints of the best and the last epoch, and a log without a progress bar.
`stopwatch.json` in the current folder has its times.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_loop import Recipe, loaders, read_arguments, read_recipe, words_of
from benchmarks.stopwatch import Stopwatch

try:
    import lightning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} isn't installed: pip install 'resnet-sweep[benchmarks]'"
    ) from error


class Classifier(lightning.LightningModule):
    """The model and its steps as Lightning wants them."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.optimizer, self.epochs = recipe.model, recipe.optimizer, recipe.epochs

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self._measure("train", batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self._measure("val", batch)

    def _measure(self, part: str, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        accuracy = 100 * (logits.argmax(1) == labels).float().mean()
        self.log(f"{part}_loss", loss, on_epoch=True)
        self.log(f"{part}_acc", accuracy, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs)
        return {"optimizer": self.optimizer, "lr_scheduler": schedule}


class Watch(Callback):
    """Stops the time from before the first batch to after the last checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.watch = folder, Stopwatch()

    def on_train_start(self, *_: Any) -> None:
        self.watch.on_train_start(self.folder)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.watch.on_epoch_end({}, [], trainer.global_step)


def train(recipe: Recipe, device: torch.device, folder: Path) -> int:
    """Train, and write what comes of it into a folder; returns how many steps were made."""
    on_gpu = device.type == "cuda"
    trainer = lightning.Trainer(
        max_epochs=recipe.epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if on_gpu else "32-true",
        logger=TensorBoardLogger(folder),
        log_every_n_steps=1,
        callbacks=[
            Watch(folder),
            ModelCheckpoint(folder / "checkpoints", monitor="val_acc", mode="max", save_last=True),
        ],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(recipe), *loaders(recipe, pinned=on_gpu))
    return trainer.global_step


def main() -> None:
    """Train as told."""
    told = read_arguments("Train with Lightning's Trainer.")
    recipe = read_recipe(words_of(told.model, told.images, told.epochs, told.device))
    train(recipe, torch.device(told.device), Path.cwd())


if __name__ == "__main__":
    main()
