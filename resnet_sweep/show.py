"""The command `python -m resnet_sweep.show augmentation=CHOICE`: a picture of augmented images."""

import argparse
from pathlib import Path

from resnet_sweep.console import carry_out
from resnet_sweep.errors import RequestError

# More images or rows than that make a picture that nothing can show.
MOST = 32


def main() -> None:
    """Draw training images before and after the augmentation of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.show",
        description="Draw training images before and after the augmentation of a run.",
    )
    parser.add_argument(
        "overrides", metavar="OVERRIDE", nargs="*",
        help="as for python -m resnet_sweep, such as augmentation=cutmix",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE.png", type=Path,
        help="default: augmentation_CHOICE.png in the current folder",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=8, help=f"how many, up to {MOST} (default: 8)"
    )
    parser.add_argument(
        "--draws", type=int, default=4, help=f"of each image, up to {MOST} (default: 4)"
    )
    arguments = parser.parse_intermixed_args()
    carry_out(
        lambda: print(
            show(arguments.overrides, arguments.output, arguments.images, arguments.draws)
        )
    )


def show(overrides: list[str], path: Path | None, images: int, draws: int) -> Path:
    """Write the picture.

    Args:
        overrides: of the config, as on the main command line.
        path: of the picture; None names it after the choice of augmentation.
        images: how many, side by side.
        draws: rows after the one of the images before.

    Returns:
        Where it is.

    Raises:
        RequestError: there is no such picture, or it can't be written there.
    """
    # Imported here because torch takes seconds that --help needn't wait.
    from hydra import compose, initialize_config_module
    from hydra.core.hydra_config import HydraConfig

    from resnet_sweep.augmentation.picture import draw_augmentation
    from resnet_sweep.composition.build import build_augmentation
    from resnet_sweep.composition.complaint import sentence
    from resnet_sweep.composition.gate import choices_of, settings_of
    from resnet_sweep.composition.prepare import prepare
    from resnet_sweep.runs.files import write_atomically

    for name, count in (("images", images), ("draws", draws)):
        if not 1 <= count <= MOST:
            raise RequestError(f"--{name} must be a whole number from 1 to {MOST}, but is {count}")
    if path is not None and path.suffix != ".png":
        raise RequestError(f"-o {path} isn't the name of a picture: let it end in .png")
    try:
        with initialize_config_module("resnet_sweep.conf"):
            config = compose("config", overrides, return_hydra_config=True)
    # Hydra has errors of many kinds, and also ValueError, for what a user types.
    except Exception as error:
        raise RequestError(sentence(error)) from error
    HydraConfig.instance().set_config(config)
    prepared = prepare(settings_of(config) | {"logger": {}})
    dataset, seed = prepared.dataset, prepared.config["seed"]
    if images > len(dataset.train):
        raise RequestError(
            f"--images={images} is more than the {len(dataset.train)} training images: choose fewer"
        )
    operations = build_augmentation(prepared.config, dataset)
    picture = draw_augmentation(operations, dataset, images, draws, seed)
    if path is None:
        path = Path(f"augmentation_{choices_of(config.hydra, prepared.config)['augmentation']}.png")
    try:
        write_atomically(path, picture)
    except OSError as error:
        raise RequestError(
            f"{path} can't be written ({error.strerror}): name another file with -o"
        ) from error
    return path


if __name__ == "__main__":
    main()
