"""Draw what the best checkpoint of a run has learned.

Figures and their data are written to RUN/features: filters, activations, class activation maps
(Grad-CAM), dead channels, an embedding of the test set, and a preview of the augmentation.
"""

import argparse
from typing import TYPE_CHECKING

from resnet_sweep.compare.collection import resolve_trained_run
from resnet_sweep.errors import ConfigError

if TYPE_CHECKING:
    from resnet_sweep.data.dataset import Split

# Without --images, the first image of this many classes is drawn.
DEFAULT_CLASSES = 8
# A figure with more rows is too large to view.
MAX_IMAGES = 64
# Number of training images in the preview of the augmentation, and of augmented copies of each.
AUGMENTED, DRAWS = 8, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `features`."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--images",
        metavar="0,1,2",
        help=f"positions in the test set (default: the first image of {DEFAULT_CLASSES} classes)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw what the network of a run has learned, and write the figures to `features/`."""
    # Imported here because torch and scikit-learn take seconds, and --help doesn't need them.
    from resnet_sweep.analysis.dead_channels import table
    from resnet_sweep.analysis.feature_report import FeatureReport
    from resnet_sweep.analysis.layers import NotApplicableError
    from resnet_sweep.augmentation.preview import draw_augmentation
    from resnet_sweep.config.build import build_augmentation
    from resnet_sweep.config.restore import restore
    from resnet_sweep.runs.files import write_folder

    directory = resolve_trained_run(arguments.run)
    restored = restore(directory)
    dataset, record = restored.dataset, restored.record
    positions = choose_images(arguments.images, dataset.test)
    report = FeatureReport(
        restored.model, dataset, restored.normalize, restored.device, restored.precision, positions
    )
    contents: dict[str, bytes] = {}
    lines: list[str] = []
    for part, draw in report.parts().items():
        try:
            files = draw()
        except NotApplicableError as error:
            lines.append(f"{part}: skipped, because {error}")
        else:
            contents |= files
            lines.append(f"{part}: {', '.join(files)}")
    if operations := build_augmentation(record.config, dataset):
        contents["augmentation.png"] = draw_augmentation(
            operations, dataset, AUGMENTED, DRAWS, record.seed or 0
        )
        lines.append("augmentation: augmentation.png")
    write_folder(directory / "features", contents)
    print(f"  Written to {directory / 'features'}:")
    for line in lines:
        print(f"    {line}")
    if "dead_channels.json" in contents:
        print("  Channels that are never above zero:")
        for line in table(report.sample.dead_channels):
            print(f"    {line}")


def choose_images(text: str | None, test: "Split") -> list[int]:
    """Return the positions given with `--images`, or those of the first images of some classes."""
    if text is None:
        labels = test.labels[test.indices].tolist()
        return [labels.index(label) for label in sorted(set(labels))[:DEFAULT_CLASSES]]
    try:
        positions = [int(entry) for entry in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--images={text} isn't a list of numbers: give positions in the test set, such as "
            "--images=0,1,2"
        ) from error
    for position in positions:
        if not 0 <= position < len(test):
            raise ConfigError(
                f"--images={text} names {position}, but the test set has {len(test)} images: "
                f"choose from 0 to {len(test) - 1}"
            )
    chosen = list(dict.fromkeys(positions))
    if len(chosen) > MAX_IMAGES:
        raise ConfigError(
            f"--images={text} names {len(chosen)} images: choose at most {MAX_IMAGES}"
        )
    return chosen
