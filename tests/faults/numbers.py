"""Numbers that are none, where a training meets them, and batches at the edge."""

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
    """Put NaN and infinity into data, losses and gradients, use rates that diverge and batches at
    the edge: so many runs."""
    tally = Tally(
        "NaN or infinity in data, loss, gradient or weights; diverging rates; batches of one; "
        "missing classes"
    )
    chance = random.Random(seed)
    kinds = (_in_data, _in_loss, _in_gradient, _in_weights, _rate, _edge)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        fault, words, told = kind(chance)
        place = folder / f"{number}"
        ended = child.run(place, *recipes.SMALL, *words, "hydra.run.dir=run", fault=fault)
        outcome, wrong = _judge(ended, place / "run")
        tally.add(outcome, wrong and f"{told} (seed {seed}, trial {number}): {wrong}")
        shutil.rmtree(place)
    return tally


def _judge(ended: child.Outcome, directory: Path) -> tuple[str, str | None]:
    if ended.refusal and not (directory / "run.json").exists():
        return "refused with one sentence", None
    if "Traceback" in ended.output or ended.status not in (0, 1):
        return "", f"status {ended.status}\n{ended.output}"
    record = json.loads((directory / "run.json").read_text())
    entry = load_run(directory, "run")
    error = entry.error if isinstance(entry, BrokenRun) else entry.metrics.error
    if error:
        return "", f"its files can't be read: {error}"
    rows = read_metrics(directory)
    # A gradient's norm may be infinite where the step was clipped or came to nothing.
    figures = [row.get("val_loss", math.nan) for row in rows]
    if not all(map(math.isfinite, figures)):
        return "", f"a loss isn't finite: {figures}"
    if ended.status == 0:
        return "finished, with finite figures", None if record["state"] == "finished" else str(
            record
        )
    if record["state"] != "diverged" or "step" not in record["reason"]:
        return "", f"it is {record['state']}: {record['reason']}\n{ended.output}"
    return "told where it diverged", None


def _after(calls: int, change: Callable[[Any], Any]) -> Callable:
    """A function's results, changed from some call on, once or for good."""
    made = [0]

    def wrap(function):
        def called(*arguments, **options):
            made[0] += 1
            result = function(*arguments, **options)
            return change(result) if made[0] == calls else result

        return called

    return wrap


def _in_data(chance: random.Random):
    value, calls = chance.choice(NUMBERS), chance.randint(1, 24)

    def spoil(images: torch.Tensor) -> torch.Tensor:
        images[0, 0, 0, 0] = value
        return images

    def fault() -> None:
        normalize = evaluation.Normalize
        normalize.__call__ = _after(calls, spoil)(normalize.__call__)

    return fault, (), f"{value} in the images of batch {calls}"


def _in_loss(chance: random.Random):
    value, calls = chance.choice(NUMBERS[:3]), chance.randint(1, 20)

    def fault() -> None:
        loss = nn.CrossEntropyLoss
        # After the trial before the run.
        loss.forward = _after(calls + 1, lambda result: result * 0 + value)(loss.forward)

    return fault, (), f"{value} as the loss of step {calls}"


def _in_gradient(chance: random.Random):
    value, calls = chance.choice(NUMBERS), chance.randint(1, 19)

    def fault() -> None:
        made = [0]
        update = StepMetrics.update

        def disturbed(self, *arguments):
            made[0] += 1
            if made[0] == calls:
                self.parameters[0].grad[0, 0, 0, 0] = value
            return update(self, *arguments)

        StepMetrics.update = disturbed

    words = chance.choice([(), ("trainer.clip_grad_norm=1",), ("optim=adamw",), ("optim=muon",)])
    return fault, words, f"{value} in the gradient of step {calls}, {words}"


def _in_weights(chance: random.Random):
    value, calls = chance.choice(NUMBERS), chance.randint(1, 19)

    def fault() -> None:
        made = [0]
        update = StepMetrics.update

        def disturbed(self, *arguments):
            made[0] += 1
            if made[0] == calls:
                with torch.no_grad():
                    self.parameters[-1][0] = value
            return update(self, *arguments)

        StepMetrics.update = disturbed

    words = chance.choice([(), ("trainer.ema_decay=0.9",)])
    return fault, words, f"{value} among the weights after step {calls}, {words}"


def _rate(chance: random.Random):
    optimizer = chance.choice(["sgd", "adamw", "muon"])
    rate = (
        10.0 ** chance.randint(-320, 309) if chance.random() < 0.5 else 10 ** chance.uniform(1, 20)
    )
    words = (
        f"optim={optimizer}",
        f"optim.lr={rate}",
        chance.choice(
            [
                "schedule=cosine",
                "schedule=one_cycle",
                "schedule=plateau",
                "schedule.warmup_epochs=1",
            ]
        ),
    )
    return (lambda: None), words, f"{words}"


def _edge(chance: random.Random):
    words = chance.choice(
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
    return (lambda: None), words, f"{words}"
