"""Export the network of a run for other programs, with the weights of its best epoch.

The ending of FILE chooses the format: .safetensors (the weights), .pt2 (a program of torch.export)
or .onnx. FILE.json describes the network: the classes, and the shape, the mean and the standard
deviation of the images. The file is loaded again, and its logits are compared with those of the
run.
"""

import argparse
from pathlib import Path

from resnet_sweep.compare.collection import resolve_trained_run
from resnet_sweep.compare.format import escape, safe_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="FILE.safetensors, FILE.pt2 or FILE.onnx",
    )


def run(arguments: argparse.Namespace) -> None:
    """Export the network of a run, and print what the file takes and returns."""
    # Imported here because torch takes seconds, and --help doesn't need it.
    from resnet_sweep.config.export import CHECKED_BATCHES, export_network

    directory = resolve_trained_run(arguments.run)
    export = export_network(directory, arguments.output)
    network = export.network
    data, record = network.data, network.record
    channels, height, width = data.image_shape
    so_far = "" if record.has_ended else f" ({safe_text(record.state)}: best so far)"
    images = (
        "uint8 images from 0 to 255, which the file normalizes"
        if export.is_program
        else "normalized images: (image / 255 - mean) / std"
    )
    lines = {
        "Run": f"{escape(str(directory))}{so_far}",
        "Checkpoint": f"epoch {network.epoch}, validation accuracy {network.val_acc:.2f}%",
        "Input": f"(N, {channels}, {height}, {width}), {images}",
        "Output": f"(N, {data.num_classes}), logits",
        "Check": f"the logits of {sum(CHECKED_BATCHES)} random images differ by at most "
        f"{export.difference:.1e} from those of the run",
        "Written": ", ".join(escape(str(file)) for file in export.files),
    }
    for name, value in lines.items():
        print(f"  {name + ':':12}{value}")
