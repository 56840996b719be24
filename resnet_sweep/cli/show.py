"""Draw training images before and after augmentation."""

import argparse
from pathlib import Path

from resnet_sweep.errors import ConfigError

# A figure with more images or rows is too large to view.
MAX_COUNT = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `show`."""
    parser.add_argument(
        "overrides",
        metavar="OVERRIDE",
        nargs="*",
        help="an override as in python -m resnet_sweep, such as augmentation=cutmix",
    )
    parser.add_argument(
        "--config-dir", metavar="DIR", help="a folder with config files of your own"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.png",
        type=Path,
        help="default: augmentation_CHOICE.png in the current folder",
    )
    parser.add_argument(
        "--images", type=int, default=8, help=f"number of images, at most {MAX_COUNT} (default: 8)"
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        help=f"augmented copies of each image, at most {MAX_COUNT} (default: 4)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the preview, and print its path."""
    # Imported here because torch takes seconds, and --help doesn't need it.
    from resnet_sweep.augmentation.preview import draw_augmentation
    from resnet_sweep.config.build import build_augmentation
    from resnet_sweep.config.errors import format_error
    from resnet_sweep.config.plan import plan_run
    from resnet_sweep.request import compose
    from resnet_sweep.runs.files import write_atomically

    overrides, path = [*arguments.overrides], arguments.output
    if arguments.config_dir is not None:
        overrides += ["--config-dir", arguments.config_dir]
    images, draws = arguments.images, arguments.draws
    for name, count in {"images": images, "draws": draws}.items():
        if not 1 <= count <= MAX_COUNT:
            raise ConfigError(f"--{name} is {count}: it must be from 1 to {MAX_COUNT}")
    if path is not None and path.suffix != ".png":
        raise ConfigError(f"-o {path} doesn't end in .png: name a PNG file")
    try:
        composed = compose(overrides)
    # For a wrong override, Hydra raises errors of many types, even ValueError.
    except Exception as error:
        raise ConfigError(format_error(error, overrides)) from error
    planned = plan_run(composed.settings | {"logger": {}})
    dataset = planned.dataset
    if images > len(dataset.train):
        raise ConfigError(
            f"--images={images} is more than the {len(dataset.train)} training images: choose fewer"
        )
    operations = build_augmentation(planned.config, dataset)
    picture = draw_augmentation(operations, dataset, images, draws, planned.config["seed"])
    if path is None:
        path = Path(f"augmentation_{composed.choices['augmentation']}.png")
    try:
        write_atomically(path, picture)
    except OSError as error:
        raise ConfigError(
            f"{path} can't be written ({error.strerror}): choose another file with -o"
        ) from error
    print(path)
