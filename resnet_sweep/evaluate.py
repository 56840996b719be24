"""The command `python -m resnet_sweep.evaluate RUN`: a run's best checkpoint on the test set."""

import argparse
import sys
from pathlib import Path

from resnet_sweep.errors import RequestError


def main() -> None:
    """Print what the best checkpoint of a run makes of the test set."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.evaluate",
        description="Evaluate the best checkpoint of a run on its test set.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    directory = parser.parse_args().run
    try:
        print(evaluate(directory))
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def evaluate(directory: Path) -> str:
    """What the best checkpoint of a run makes of the test set, some lines.

    Raises:
        RequestError: the run has no sound checkpoint, or its data aren't there.
    """
    # Imported here because torch takes seconds that --help needn't wait.
    from resnet_sweep.composition.prepare import build_model, prepare
    from resnet_sweep.data.batches import Batches
    from resnet_sweep.runs.record import Record
    from resnet_sweep.training.checkpoint import BEST, read_checkpoint
    from resnet_sweep.training.evaluation import Normalize, accuracy, cross_entropy, predict

    try:
        record = Record.read(directory)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(
            f"{directory} isn't a run directory (it has no run.json): name one, such as "
            "outputs/DATE/TIME"
        ) from error
    path = directory / "checkpoints" / BEST
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        raise RequestError(
            f"{path} is missing: the run has to end its first epoch before it can be evaluated"
        ) from error
    # The device may be another than the run's; its precision is kept where it can be.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = record.config.get("trainer", {}) | {"device": "auto", "precision": precision}
    prepared = prepare(record.config | {"trainer": trainer})
    if checkpoint["signature"] != record.signature:
        raise RequestError(f"{path} belongs to another run: put the run's own checkpoint back")
    if prepared.dataset.fingerprint != record.fingerprint:
        raise RequestError(
            f"{directory} was trained on other data than lie there now: set data.root back"
        )
    model = build_model(record.config, prepared.dataset)
    model.load_state_dict(checkpoint["model"])
    dataset, device = prepared.dataset, prepared.device
    logits, labels = predict(
        model.to(device),
        Batches(dataset.test, device),
        Normalize(dataset.mean, dataset.std, device),
        prepared.precision,
    )
    lines = {
        "Run": directory,
        "Checkpoint": f"epoch {checkpoint['epoch']}, validation accuracy "
        f"{checkpoint['val_acc']:.2f}%",
        "Test set": f"{len(dataset.test):,} images",
        "Device": f"{device}, {prepared.precision}",
        "Top-1 accuracy": f"{accuracy(logits, labels):.2f}%",
        "Top-5 accuracy": f"{accuracy(logits, labels, k=5):.2f}%",
        "Loss": f"{cross_entropy(logits, labels):.4f}",
    }
    return "\n".join(f"  {name + ':':17}{value}" for name, value in lines.items())


if __name__ == "__main__":
    main()
