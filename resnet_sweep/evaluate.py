"""The command `python -m resnet_sweep.evaluate RUN`: a run's best checkpoint on the test set."""

import argparse
import sys
from pathlib import Path

from resnet_sweep.errors import RequestError


def main() -> None:
    """Print what the best checkpoint of a run makes of its test set."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.evaluate",
        description="Evaluate the best checkpoint of a run on its test set.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    directory = parser.parse_args().run
    try:
        # Imported here because torch takes seconds that --help needn't wait.
        from resnet_sweep.composition.assess import assess

        found = assess(directory)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    lines = {
        "Run": directory,
        "Checkpoint": f"epoch {found.epoch}, validation accuracy {found.val_acc:.2f}%",
        "Test set": f"{found.images:,} images",
        "Device": f"{found.device}, {found.precision}",
        "Top-1 accuracy": f"{found.top1:.2f}%",
        "Top-5 accuracy": f"{found.top5:.2f}%",
        "Loss": f"{found.loss:.4f}",
    }
    for name, value in lines.items():
        print(f"  {name + ':':17}{value}")


if __name__ == "__main__":
    main()
