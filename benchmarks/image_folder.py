"""Measure how long a folder of JPEG files delays the first training step.

python -m benchmarks.image_folder [--images 10000] [--turns 3]

Generated JPEG files of 256x192 pixels are resized to 32x32. Each turn measures, in fresh processes,
the seconds from the command to the end of the first training step and to the end of the first
epoch, with its validation: of `python -m resnet_sweep` without converted images (cold) and with
them (warm), and of the plain loop of `benchmarks.plain_loop` with torchvision's ImageFolder and a
DataLoader, whose worker processes decode the files in each epoch. The network is resnet8v2.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import plain_loop
from benchmarks.command_line import make_parser
from benchmarks.markdown import median_and_range, table_header, table_row
from benchmarks.processes import run_python, temporary_folder
from benchmarks.timestamps import TIMESTAMPS_OVERRIDE, read_timestamps
from resnet_sweep.config.build import build_model, build_optimizer
from resnet_sweep.data.dataset import DataDescription

CLASSES, SIZE = 10, 32
# One image in this number is used for validation.
VALIDATION = 6
# Close to the values of the generated images, which torchvision doesn't compute.
MEAN, STD = [0.5] * 3, [0.25] * 3
RECIPE = ("model=resnet8v2", "trainer.epochs=1", "trainer.device=cpu", "trainer.batch_size=128")


def write_images(root: Path, count: int) -> None:
    """Write JPEG files in the folders `train` and `val`, with a folder for each class."""
    random = np.random.RandomState(0)
    for index in range(count):
        part = "val" if index // CLASSES % VALIDATION == 0 else "train"
        folder = root / part / f"class_{index % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        # Coarse noise, enlarged, has about the size and the cost of a photo.
        coarse = random.randint(0, 256, (24, 32, 3)).astype(np.uint8)
        image = Image.fromarray(coarse).resize((256, 192), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:06}.jpg", quality=90)


def time_command(root: Path, cache: Path) -> list[float]:
    """Return the seconds of `python -m resnet_sweep` to the first step, and to the epoch's end."""
    data = ("data=image_folder", f"data.root={root}", f"data.size={SIZE}")
    with temporary_folder() as folder:
        start = time.monotonic()
        run_python(
            ["-m", "resnet_sweep", *data, *RECIPE, TIMESTAMPS_OVERRIDE, "hydra.run.dir=run"],
            folder,
            {"RESNET_SWEEP_CACHE": str(cache)},
        )
        times = read_timestamps(folder / "run")
    return [times[event] - start for event in ("first_step", "epoch_ended")]


def time_torchvision(root: Path) -> list[float]:
    """Return the same times of the plain loop with torchvision's ImageFolder."""
    with temporary_folder() as folder:
        start = time.monotonic()
        run_python(["-m", "benchmarks.image_folder", "--loop", str(root)], folder)
        times = read_timestamps(folder)
    return [times[event] - start for event in ("first_step", "epoch_ended")]


def train_torchvision(root: Path) -> None:
    """Train an epoch with the plain loop, and write the timestamps into the current folder."""
    with initialize_config_module("resnet_sweep.conf"):
        config = OmegaConf.to_container(compose("config", overrides=[*RECIPE]), resolve=True)
    resize = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE)]
    augment = [transforms.RandomCrop(SIZE, padding=4), transforms.RandomHorizontalFlip()]
    scale = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    train, validation = (
        ImageFolder(root / part, transforms.Compose([*resize, *changes, *scale]))
        for part, changes in (("train", augment), ("val", []))
    )
    batch_size = config["trainer"]["batch_size"]
    settings = {"num_workers": plain_loop.WORKERS, "persistent_workers": plain_loop.WORKERS > 0}
    loaders = (
        DataLoader(train, batch_size, shuffle=True, **settings),
        DataLoader(validation, 2 * batch_size, **settings),
    )
    model = build_model(config, DataDescription(train.classes, MEAN, STD, [3, SIZE, SIZE]))
    optimizer = build_optimizer(config, model, len(train.classes))
    plain_loop.train_epochs(model, optimizer, loaders, 1, torch.device("cpu"), Path.cwd())


def main() -> None:
    """Run all turns, and print a table in Markdown."""
    parser = make_parser("image_folder", __doc__)
    parser.add_argument("--images", type=int, default=10_000, help="files (default: 10000)")
    parser.add_argument("--turns", type=int, default=3, help="default: 3")
    parser.add_argument("--loop", type=Path, help="only train the plain loop on this folder")
    arguments = parser.parse_args()
    if arguments.loop is not None:
        train_torchvision(arguments.loop)
        return
    times: dict[str, list[list[float]]] = {}
    with temporary_folder() as top:
        write_images(top / "images", arguments.images)
        for turn in range(arguments.turns):
            cache = top / f"cache_{turn}"
            for name, measure in {
                "`resnet_sweep`, cold": lambda cache=cache: time_command(top / "images", cache),
                "`resnet_sweep`, warm": lambda cache=cache: time_command(top / "images", cache),
                "`ImageFolder` and `DataLoader`": lambda: time_torchvision(top / "images"),
            }.items():
                seconds = measure()
                print(json.dumps([turn, name, *seconds]), file=sys.stderr, flush=True)
                times.setdefault(name, []).append(seconds)
    print(table_header("program", "first step, s", "from", "to", "first epoch, s", "from", "to"))
    for name, found in times.items():
        steps, epochs = zip(*found, strict=True)
        print(table_row(name, *median_and_range(steps, 1), *median_and_range(epochs, 1)))


if __name__ == "__main__":
    main()
