"""The training loop that most repositories have, to compare with.

python -m benchmarks.plain_loop --model resnet8v2 --images 4096 --epochs 1 --device cpu

Worker processes of a DataLoader crop, flip and scale one PIL image after another with torchvision's
transforms; the network has the default memory layout and computes eagerly in float32. On a GPU it
has what is usual there: pinned memory, copies that don't wait, autocast to bfloat16. It prints a
line an epoch, writes it to TensorBoard, validates after each epoch and saves the best weights and
the last state, as ours does. `stopwatch.json` in the current folder has its times.
"""

import argparse
import os
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

from benchmarks.stopwatch import Stopwatch
from resnet_sweep.config.build import build_model, build_optimizer
from resnet_sweep.config.instantiate import instantiate
from resnet_sweep.data.dataset import Dataset as Source
from resnet_sweep.data.dataset import Split
from resnet_sweep.randomness import derive_seed

# As many as there are cores, which is the usual advice, but no more than anybody takes.
WORKERS = min(4, len(os.sched_getaffinity(0)))


class Recipe(NamedTuple):
    """What all loops have in common: the run that a command line composes.

    Attributes:
        source: images and labels.
        model, optimizer: with the first weights that ours has.
        epochs, batch_size: of the run.
    """

    source: Source
    model: nn.Module
    optimizer: torch.optim.Optimizer
    epochs: int
    batch_size: int


def words_of(model: str, images: int, epochs: int, device: str) -> list[str]:
    """The words of a run on some training images, and a fifth as many to validate on: the
    proportion of CIFAR-100."""
    return [
        f"model={model}", f"data.limit_train={images}", f"data.limit_test={images // 5}",
        f"trainer.epochs={epochs}", f"trainer.device={device}",
        f"trainer.precision={'float32' if device == 'cpu' else 'auto'}",
    ]  # fmt: skip


def read_recipe(words: list[str]) -> Recipe:
    """What the words of a command line compose."""
    with initialize_config_module("resnet_sweep.conf"):
        config = OmegaConf.to_container(compose("config", overrides=words), resolve=True)
    source = instantiate("data", config["data"]).load(config["seed"])
    torch.manual_seed(derive_seed(config["seed"], "weights"))
    model = build_model(config, source)
    optimizer = build_optimizer(config, model)
    return Recipe(
        source, model, optimizer, config["trainer"]["epochs"], config["trainer"]["batch_size"]
    )


class Pictures(Dataset):
    """The images of a split as torchvision's data sets give them: a transformed PIL image, and its
    label."""

    def __init__(self, split: Split, transform: transforms.Compose) -> None:
        self.images = np.ascontiguousarray(split.images[split.indices].transpose(0, 2, 3, 1))
        self.labels = split.labels[split.indices].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[place])), self.labels[place]


def loaders(recipe: Recipe, pinned: bool) -> tuple[DataLoader, DataLoader]:
    """Batches to train on, and to validate on."""
    scale = [transforms.ToTensor(), transforms.Normalize(recipe.source.mean, recipe.source.std)]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train = Pictures(recipe.source.train, transforms.Compose([*augment, *scale]))
    validation = Pictures(recipe.source.validation, transforms.Compose(scale))
    settings = {"num_workers": WORKERS, "pin_memory": pinned, "persistent_workers": WORKERS > 0}
    return (
        DataLoader(train, recipe.batch_size, shuffle=True, **settings),
        DataLoader(validation, 2 * recipe.batch_size, **settings),
    )


def train(recipe: Recipe, device: torch.device, folder: Path) -> int:
    """Train, and write what comes of it into a folder; returns how many steps were made."""
    from torch.utils.tensorboard import SummaryWriter

    model, optimizer = recipe.model.to(device), recipe.optimizer
    on_gpu = device.type == "cuda"
    train_loader, validation_loader = loaders(recipe, pinned=on_gpu)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    criterion = nn.CrossEntropyLoss()
    computing = torch.autocast("cuda", torch.bfloat16) if on_gpu else nullcontext()
    writer = SummaryWriter(str(folder / "tensorboard"))
    watch = Stopwatch()
    best, steps = -1.0, 0
    watch.on_train_start(folder)
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        total, correct, seen = 0.0, 0, 0
        for images, labels in train_loader:
            images = images.to(device, non_blocking=True)
            labels = labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            with computing:
                logits = model(images)
                loss = criterion(logits, labels)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
            writer.add_scalar("step/train_loss", loss.item(), steps)
            steps += 1
        schedule.step()
        model.eval()
        val_total, val_correct, val_seen = 0.0, 0, 0
        with torch.no_grad(), computing:
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
        watch.on_epoch_end(row, [], steps)
    writer.close()
    return steps


def read_arguments(description: str) -> argparse.Namespace:
    """The arguments of a loop."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", default="resnet8v2", help="a choice of the group model")
    parser.add_argument("--images", type=int, default=4096, help="to train on in an epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def main() -> None:
    """Train as told."""
    told = read_arguments("Train as most repositories do.")
    recipe = read_recipe(words_of(told.model, told.images, told.epochs, told.device))
    train(recipe, torch.device(told.device), Path.cwd())


if __name__ == "__main__":
    main()
