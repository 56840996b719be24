"""Runs with NaN and infinity, diverging learning rates and very small datasets."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faults import child, recipes
from faults.tally import Tally
from resnet_sweep.compare.loaded_run import BrokenRun, load_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training import evaluation
from resnet_sweep.training.step_metrics import StepMetrics

NUMBERS = (math.nan, math.inf, -math.inf, 1e38)


def numbers(count: int, seed: int, folder: Path) -> Tally:
    """Train `count` runs with NaN or infinity, a rate that diverges, or a very small dataset."""
    tally = Tally(
        "NaN or infinity in images, loss, gradient or weights; learning rates that diverge; "
        "batches of one image; missing classes"
    )
    rng = random.Random(seed)
    kinds = (_in_images, _in_loss, _in_gradient, _in_weights, _rate, _small_dataset)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        fault, overrides, description = kind(rng)
        trial = folder / f"{number}"
        result = child.run(trial, *recipes.SMALL, *overrides, "hydra.run.dir=run", fault=fault)
        outcome, failure = _outcome(result, trial / "run")
        if failure is not None:
            failure = f"{description} (seed {seed}, trial {number}): {failure}"
        tally.add(outcome, failure)
        shutil.rmtree(trial)
    return tally


def _outcome(result: child.CommandResult, directory: Path) -> tuple[str, str | None]:
    """Return the outcome of a run and the description of a failure, if any."""
    if result.refusal and not (directory / "run.json").exists():
        return "refused with one error message", None
    if "Traceback" in result.output or result.status not in (0, 1):
        return "", f"status {result.status}\n{result.output}"
    record = json.loads((directory / "run.json").read_text())
    run = load_run(directory, "run")
    error = run.error if isinstance(run, BrokenRun) else run.metrics.error
    if error:
        return "", f"its files can't be read: {error}"
    # Only losses must be finite: the norm of a gradient may be infinite before it is clipped.
    losses = [row.get("val_loss", math.nan) for row in read_metrics(directory)]
    if not all(map(math.isfinite, losses)):
        return "", f"a loss isn't finite: {losses}"
    if result.status == 0:
        failure = None if record["state"] == "finished" else str(record)
        return "finished with finite metrics", failure
    if record["state"] != "diverged" or "step" not in record["reason"]:
        return "", f"the state is {record['state']}: {record['reason']}\n{result.output}"
    return "reported where it diverged", None


def _change_result(call: int, change: Callable[[Any], Any]) -> Callable:
    """Return a decorator that changes the result of one call of a function.

    Args:
        call: the number of the call, from 1.
        change: a function that returns the changed result.
    """
    calls = 0

    def decorate(function):
        def changed(*arguments, **options):
            nonlocal calls
            calls += 1
            result = function(*arguments, **options)
            return change(result) if calls == call else result

        return changed

    return decorate


def _before_update(call: int, change: Callable[[StepMetrics], None]) -> None:
    """Call a function with the step metrics before their update with this number, from 1."""
    calls = 0
    update = StepMetrics.update

    def changed(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            change(self)
        return update(self, *arguments)

    StepMetrics.update = changed


def _in_images(rng: random.Random):
    value, batch = rng.choice(NUMBERS), rng.randint(1, 24)

    def spoil(images: torch.Tensor) -> torch.Tensor:
        images[0, 0, 0, 0] = value
        return images

    def fault() -> None:
        normalize = evaluation.Normalize
        normalize.__call__ = _change_result(batch, spoil)(normalize.__call__)

    return fault, (), f"{value} in the images of batch {batch}"


def _in_loss(rng: random.Random):
    value, step = rng.choice(NUMBERS[:3]), rng.randint(1, 20)

    def spoil(loss: torch.Tensor) -> torch.Tensor:
        return loss * 0 + value

    def fault() -> None:
        loss = nn.CrossEntropyLoss
        # The first call is in the smoke test before the run.
        loss.forward = _change_result(step + 1, spoil)(loss.forward)

    return fault, (), f"{value} as the loss of step {step}"


def _in_gradient(rng: random.Random):
    value, step = rng.choice(NUMBERS), rng.randint(1, 19)

    def spoil(metrics: StepMetrics) -> None:
        metrics.parameters[0].grad[0, 0, 0, 0] = value

    overrides = rng.choice([(), ("trainer.clip_grad_norm=1",), ("optim=adamw",), ("optim=muon",)])
    description = f"{value} in the gradient of step {step}, {overrides}"
    return (lambda: _before_update(step, spoil)), overrides, description


def _in_weights(rng: random.Random):
    value, step = rng.choice(NUMBERS), rng.randint(1, 19)

    def spoil(metrics: StepMetrics) -> None:
        with torch.no_grad():
            metrics.parameters[-1][0] = value

    overrides = rng.choice([(), ("trainer.ema_decay=0.9",)])
    description = f"{value} in a weight at step {step}, {overrides}"
    return (lambda: _before_update(step, spoil)), overrides, description


def _rate(rng: random.Random):
    optimizer = rng.choice(["sgd", "adamw", "muon"])
    rate = 10.0 ** rng.randint(-320, 309) if rng.random() < 0.5 else 10 ** rng.uniform(1, 20)
    overrides = (
        f"optim={optimizer}",
        f"optim.lr={rate}",
        rng.choice(
            [
                "schedule=cosine",
                "schedule=one_cycle",
                "schedule=plateau",
                "schedule.warmup_epochs=1",
            ]
        ),
    )
    return (lambda: None), overrides, f"{overrides}"


def _small_dataset(rng: random.Random):
    overrides = rng.choice(
        [
            ("trainer.batch_size=1", "data.limit_train=5"),
            ("data.limit_train=17",),
            ("data.limit_train=17", "trainer.drop_last=true"),
            ("data.limit_train=17", "trainer.progressive_resizing=[8,16,32]"),
            ("data.limit_train=17", "trainer.progressive_resizing=[4,8]"),
            ("data.limit_train=3", "trainer.batch_size=3", "data.limit_test=1"),
            ("data.limit_train=1", "trainer.batch_size=1"),
            ("data.limit_train=4", "trainer.batch_size=2", "augmentation=cutmix_mixup"),
            ("data.limit_train=5", "trainer.batch_size=4", "data.holdout=3"),
            ("data.limit_train=6", "trainer.batch_size=6", "trainer.epochs=1"),
        ]
    )
    return (lambda: None), overrides, f"{overrides}"
