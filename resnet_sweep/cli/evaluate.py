"""Evaluate the best checkpoint of a run on its test set.

The metrics are printed. Metrics and figures are written to RUN/evaluation.
"""

import argparse

from resnet_sweep.compare.collection import resolve_trained_run
from resnet_sweep.compare.format import escape, safe_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--flip",
        action="store_true",
        help="use test-time augmentation: average the probabilities of each image and its mirror "
        "image",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate a run, print its metrics and write `evaluation/`."""
    # Imported here because torch and matplotlib take seconds, and --help doesn't need them.
    from resnet_sweep.analysis.classification_metrics import (
        BINS,
        classification_metrics,
        draw_confusion,
        draw_reliability,
    )
    from resnet_sweep.config.restore import restore
    from resnet_sweep.data.dataset import Batches
    from resnet_sweep.figures import png
    from resnet_sweep.runs.files import write_folder
    from resnet_sweep.training.evaluation import FlipAverage, predict

    directory, flip = resolve_trained_run(arguments.run), arguments.flip
    restored = restore(directory)
    dataset = restored.dataset
    logits, labels = predict(
        FlipAverage(restored.model) if flip else restored.model,
        Batches(dataset.test, restored.device),
        restored.normalize,
        restored.precision,
    )
    found = classification_metrics(logits, labels, dataset.classes)
    chosen_by_test = dataset.validation is dataset.test
    mark, suffix = (" (with flip)", "_flip") if flip else ("", "")
    record = restored.record
    so_far = "" if record.has_ended else f" ({safe_text(record.state)}: best so far)"
    lines = {
        "Run": f"{escape(str(directory))}{so_far}",
        "Checkpoint": f"epoch {restored.epoch}, validation accuracy {restored.val_acc:.2f}%",
        "Test set": f"{len(labels):,} images"
        + (", each averaged with its mirror image (flip)" if flip else "")
        + (", also used to choose the best epoch" if chosen_by_test else ""),
        "Device": f"{restored.device}, {restored.precision}",
        "Top-1 accuracy": f"{found.top1:.2f}%{mark}",
        "Top-5 accuracy": f"{found.top5:.2f}%{mark}",
        "Loss": f"{found.loss:.4f}{mark}",
        "Calibration": f"expected error {found.calibration.error:.2f}% in {BINS} bins{mark}",
        "Best classes": _listed(found.extreme_classes(best=True)) + mark,
        "Worst classes": _listed(found.extreme_classes(best=False)) + mark,
    }
    for name, value in lines.items():
        print(f"  {name + ':':17}{value}")
    for note in record.notes:
        print(f"  {'Note:':17}{safe_text(note)}")
    print(f"  Most confused{mark}:")
    for pair in found.confused_pairs:
        print(f"    {pair.true} -> {pair.predicted}, {pair.images} of {pair.class_images}")

    title = f"epoch {restored.epoch}, {len(labels):,} test images, top-1 {found.top1:.2f}%{mark}"
    contents = {
        f"evaluation{suffix}.json": found.json(
            epoch=restored.epoch,
            val_acc=restored.val_acc,
            images=len(labels),
            device=str(restored.device),
            precision=restored.precision,
            flip=flip,
        ),
        f"confusion{suffix}.png": png(
            draw_confusion(found.confusion, dataset.classes, f"Confusion: {title}")
        ),
        f"reliability{suffix}.png": png(
            draw_reliability(found.calibration, f"Reliability: {title}")
        ),
    }
    write_folder(directory / "evaluation", contents)
    print(f"  {'Written:':17}{escape(str(directory / 'evaluation'))}/: {', '.join(contents)}")


def _listed(entries: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {accuracy:.1f}%" for name, accuracy in entries)
