"""A finished run, assessed on its test set."""

from dataclasses import dataclass
from pathlib import Path

from resnet_sweep.composition.prepare import build_model, prepare
from resnet_sweep.data.batches import Batches
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.device import set_exactness
from resnet_sweep.training.evaluation import Normalize, accuracy, cross_entropy, predict


@dataclass(frozen=True)
class Assessment:
    """What the best checkpoint of a run makes of its test set.

    Attributes:
        epoch: of the checkpoint.
        val_acc: of that epoch, percent.
        images: in the test set.
        device, precision: that it was assessed with.
        top1, top5: percent of the images whose label is among the one or five likeliest.
        loss: mean cross entropy.
    """

    epoch: int
    val_acc: float
    images: int
    device: str
    precision: str
    top1: float
    top5: float
    loss: float


def assess(directory: Path) -> Assessment:
    """Assess the best checkpoint of a run.

    Raises:
        RequestError: there is no run or no sound checkpoint of it, or its data aren't there.
    """
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
        if record.best is None:
            raise RequestError(
                f"{directory} has no checkpoint to evaluate: its run ({record.state}) hasn't "
                "ended an epoch"
            ) from error
        raise RequestError(
            f"{path} is missing: put it back, or train the run anew with trainer.resume=false"
        ) from error
    if checkpoint.get("signature") != record.signature:
        raise RequestError(f"{path} belongs to another run: put the run's own checkpoint back")
    if record.best is None or checkpoint["epoch"] != record.best["epoch"]:
        raise RequestError(
            f"{path} is of epoch {checkpoint['epoch']}, which isn't the run's best: put the right "
            "one back, or train the run anew with trainer.resume=false"
        )
    # The device may be another than the run's; its precision is kept where it can be.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = record.config.get("trainer", {}) | {"device": "auto", "precision": precision}
    prepared = prepare(record.config | {"trainer": trainer})
    if prepared.dataset.fingerprint != record.fingerprint:
        raise RequestError(
            f"{directory} was trained on other data than are there now: put those back"
        )
    model = build_model(record.config, prepared.dataset)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise RequestError(
            f"{path} doesn't fit the model in {directory / 'run.json'}: one of them was altered, "
            "so put it back"
        ) from error
    dataset, device = prepared.dataset, prepared.device
    set_exactness(device, prepared.precision)
    logits, labels = predict(
        model.to(device),
        Batches(dataset.test, device),
        Normalize(dataset.mean, dataset.std, device),
        prepared.precision,
    )
    return Assessment(
        epoch=checkpoint["epoch"],
        val_acc=checkpoint["val_acc"],
        images=len(dataset.test),
        device=str(device),
        precision=prepared.precision,
        top1=accuracy(logits, labels),
        top5=accuracy(logits, labels, k=5),
        loss=cross_entropy(logits, labels),
    )
