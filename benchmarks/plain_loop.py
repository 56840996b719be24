"""Train with a plain PyTorch loop, which the benchmarks compare with `python -m resnet_sweep`.

python -m benchmarks.plain_loop --model resnet8v2 --images 4096 --epochs 1 --device cpu

The loop is the usual one. Worker processes of a DataLoader crop, flip and scale PIL images one by
one with torchvision's transforms. The network has the default memory layout, and computes eagerly
in float32. On a GPU the loop uses pinned memory, asynchronous copies and autocast to bfloat16.
After each epoch it validates, prints a line, writes it to TensorBoard, and saves the best weights
and the last state, as `resnet_sweep` does. It writes `timestamps.json` into the current folder.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.command_line import make_parser
from benchmarks.timestamps import Timestamps
from resnet_sweep.config.build import build_model, build_optimizer
from resnet_sweep.config.instantiate import instantiate
from resnet_sweep.data.dataset import Dataset as Source
from resnet_sweep.data.dataset import Split
from resnet_sweep.randomness import derive_seed

# The usual advice is one worker per core. More than four are uncommon.
WORKERS = min(4, len(os.sched_getaffinity(0)))


class Recipe(NamedTuple):
    """The parts of a training run that all compared loops share.

    Attributes:
        source: images and labels.
        model, optimizer: with the initial weights that `resnet_sweep` has.
        epochs, batch_size: length of the run, and images in a training batch.
    """

    source: Source
    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    batch_size: int


def recipe_overrides(model: str, images: int, epochs: int, device: str) -> list[str]:
    """Return the overrides of a run.

    Args:
        model: a choice of the config group `model`.
        images: training images in an epoch. Validation has a fifth as many, the proportion in
            CIFAR-100.
        epochs: length of the run.
        device: `cpu` or `cuda`.
    """
    return [
        f"model={model}",
        f"data.limit_train={images}",
        f"data.limit_test={images // 5}",
        f"trainer.epochs={epochs}",
        f"trainer.device={device}",
        f"trainer.precision={'float32' if device == 'cpu' else 'auto'}",
    ]


def compose_recipe(overrides: list[str]) -> Recipe:
    """Return the recipe that `python -m resnet_sweep` composes from overrides."""
    with initialize_config_module("resnet_sweep.conf"):
        config = OmegaConf.to_container(compose("config", overrides=overrides), resolve=True)
    source = instantiate("data", config["data"]).load(config["seed"])
    torch.manual_seed(derive_seed(config["seed"], "weights"))
    model = build_model(config, source)
    optimizer = build_optimizer(config, model, source.num_classes)
    return Recipe(
        source, model, optimizer, config["trainer"]["epochs"], config["trainer"]["batch_size"]
    )


class TransformedImages(Dataset):
    """The images of a split in the form of torchvision's datasets: a transformed PIL image and its
    label."""

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self.images = np.ascontiguousarray(split.images[split.indices].transpose(0, 2, 3, 1))
        self.labels = split.labels[split.indices].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def make_loaders(recipe: Recipe, pinned: bool) -> tuple[DataLoader, DataLoader]:
    """Return the loaders of the training and of the validation batches."""
    scale = [transforms.ToTensor(), transforms.Normalize(recipe.source.mean, recipe.source.std)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train = TransformedImages(recipe.source.train, transforms.Compose([*augment, *scale]))
    validation = TransformedImages(recipe.source.validation, transforms.Compose(scale))
    settings = {"num_workers": WORKERS, "pin_memory": pinned, "persistent_workers": WORKERS > 0}
    return (
        DataLoader(train, recipe.batch_size, shuffle=True, **settings),
        DataLoader(validation, 2 * recipe.batch_size, **settings),
    )


def train(recipe: Recipe, device: torch.device, folder: Path) -> int:
    """Train, write the results into a folder, and return the number of training steps."""
    loaders = make_loaders(recipe, pinned=device.type == "cuda")
    return train_epochs(recipe.model, recipe.optimizer, loaders, recipe.epochs, device, folder)


def train_epochs(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loaders: tuple[DataLoader, DataLoader],
    epochs: int,
    device: torch.device,
    folder: Path,
) -> int:
    """Train with loaders of training and of validation batches; see `train`."""
    from torch.utils.tensorboard import SummaryWriter

    model, (train_loader, validation_loader) = model.to(device), loaders
    on_gpu = device.type == "cuda"
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    criterion = nn.CrossEntropyLoss()
    autocast = torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext()
    writer = SummaryWriter(str(folder / "tensorboard"))
    timestamps = Timestamps()
    best, steps = -1.0, 0
    timestamps.on_train_start(folder)
    for epoch in range(1, epochs + 1):
        model.train()
        total, correct, seen = 0.0, 0, 0
        for images, labels in train_loader:
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            with autocast:
                logits = model(images)
                loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
            writer.add_scalar("step/train_loss", loss.item(), steps)
            steps += 1
            timestamps.on_steps([])
        schedule.step()
        model.eval()
        val_total, val_correct, val_seen = 0.0, 0, 0
        with torch.no_grad(), autocast:
            for images, labels in validation_loader:
                images, labels = images.to(device), labels.to(device)
                logits = model(images)
                val_total += criterion(logits, labels).item() * len(labels)
                val_correct += (logits.argmax(1) == labels).sum().item()
                val_seen += len(labels)
        row = {
            "train_loss": total / seen,
            "train_acc": 100 * correct / seen,
            "val_loss": val_total / val_seen,
            "val_acc": 100 * val_correct / val_seen,
        }
        for name, value in row.items():
            writer.add_scalar(f"epoch/{name}", value, epoch)
        print(epoch, row, flush=True)
        if row["val_acc"] > best:
            best = row["val_acc"]
            torch.save(model.state_dict(), folder / "best_model.pth")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(state, folder / "last_model.pth")
        timestamps.on_epoch_end(row, [], steps)
    writer.close()
    return steps


def run_loop(name: str, docstring: str, train: Callable[[Recipe, torch.device, Path], int]) -> None:
    """Read the arguments of a loop from the command line, and train in the current folder.

    Args:
        name, docstring: of the loop's module.
        train: the loop.
    """
    parser = make_parser(name, docstring)
    parser.add_argument(
        "--model", default="resnet8v2", help="a choice of the group model (default: resnet8v2)"
    )
    parser.add_argument(
        "--images", type=int, default=4096, help="training images in an epoch (default: 4096)"
    )
    parser.add_argument("--epochs", type=int, default=1, help="default: 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    arguments = parser.parse_args()
    overrides = recipe_overrides(
        arguments.model, arguments.images, arguments.epochs, arguments.device
    )
    train(compose_recipe(overrides), torch.device(arguments.device), Path.cwd())


def main() -> None:
    """Train with the plain loop."""
    run_loop("plain_loop", __doc__, train)


if __name__ == "__main__":
    main()
