"""Where the time of our training goes, in a step and in an epoch.

python -m benchmarks.profile [--models resnet44v2 ...] [--steps 10] [--device cpu|cuda]

The steps are those of a real run, under torch's profiler. Of each operation counts the time that it
takes itself, without those that it calls: on a GPU the time of its kernels. The rest is what the
profiled steps took beyond that: Python, operations of no part, and on a GPU waiting for work. The
profiler's own work is in it, so that it is an upper bound.

Of an epoch, the parts that aren't training are timed on a short run, by image or by epoch, and told
as shares of an epoch of all of CIFAR-100: 50,000 images to train on, 10,000 to evaluate.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.plain_loop import words_of
from benchmarks.throughput import IMAGES
from resnet_sweep.config.build import build_loggers
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run
from resnet_sweep.training import checkpoint, trainer
from resnet_sweep.training.signals import StopSignal
from resnet_sweep.training.trainer import Trainer

# What an operation belongs to, by what is in its name; the first that fits.
OPERATIONS = {
    "convolutions": ("conv",),
    "norm and activation": ("batch_norm", "relu", "threshold"),
    "add": ("aten::add",),
    "loss and classifier": ("softmax", "nll_loss", "addmm", "aten::mm", "dropout", "mean"),
}
# What is marked as a whole, whatever operations it has.
MARKED = ("augmentation", "figures of the step", "optimizer")
REST = "Python and the rest"
TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000


def prepared_run(model: str, images: int, device: str) -> PlannedRun:
    """A run of one epoch on some images."""
    with initialize_config_module("resnet_sweep.conf"):
        config = compose("config", overrides=words_of(model, images, 1, device))
    return plan_run(OmegaConf.to_container(config, resolve=True))


def marked(name: str, function: Callable) -> Callable:
    """A function whose operations the profiler counts under a name."""

    def call(*arguments: object) -> object:
        with record_function(name):
            return function(*arguments)

    return call


def steps_of(training: Trainer, count: int) -> Iterator[Callable[[], None]]:
    """The first steps of a training, each to be made by a call."""
    size = training.config.batch_size
    order = torch.randperm(len(training.train_batches), device=training.device)
    take = marked("augmentation", training.train_batches.take)
    for step in range(count):

        def make(step: int = step) -> None:
            training.step = step
            training.train_step(*take(order[step * size : (step + 1) * size]))

        yield make


def profile_steps(training: Trainer, count: int) -> Counter[str]:
    """Seconds of the parts of a step, on average over `count` after two that aren't counted."""
    training.augmentation = [marked("augmentation", each) for each in training.augmentation]
    training.normalize = marked("augmentation", training.normalize)
    training.step_metrics.update = marked("figures of the step", training.step_metrics.update)
    training.model.train()
    first, second, *others = steps_of(training, count + 2)
    first()
    second()
    on_gpu = training.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as found:
        begun = time.perf_counter()
        for make in others:
            make()
        if on_gpu:
            torch.cuda.synchronize()
        whole = time.perf_counter() - begun
    parts: Counter[str] = Counter()
    for event in found.events():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if name := part_of(event):
            parts[name] += microseconds / 1e6 / count
    parts[REST] = whole / count - parts.total()
    return parts


def part_of(event: torch.autograd.profiler_util.FunctionEvent) -> str | None:
    """What part of a step an operation belongs to; None if it is Python's own, or not known."""
    ancestor = event
    while ancestor is not None:
        for name in MARKED:
            # The optimizer marks itself.
            if ancestor.name.lower().startswith(name):
                return None if ancestor is event else name
        ancestor = ancestor.cpu_parent
    if not event.name.startswith("aten::"):
        return None
    for part, names in OPERATIONS.items():
        if any(name in event.name for name in names):
            return part
    return None


@contextmanager
def timed(owner: object, name: str, seconds: Counter[str]) -> Iterator[None]:
    """Have each call of `owner.name` add the time that it takes to that of its name."""
    function = getattr(owner, name)

    def call(*arguments: object, **settings: object) -> object:
        begun = time.perf_counter()
        try:
            return function(*arguments, **settings)
        finally:
            seconds[name] += time.perf_counter() - begun

    with patch.object(owner, name, call):
        yield


def time_epoch(prepared: PlannedRun, folder: Path) -> Counter[str]:
    """Seconds of the parts of an epoch of all of CIFAR-100, reckoned from a short one."""
    record = Record(
        signature=prepared.signature,
        config=dict(prepared.config),
        precision=prepared.precision,
        fingerprint=prepared.dataset.fingerprint,
    )
    run = Run.open(folder, record)
    training, loggers = prepared.build_trainer(), build_loggers(prepared.config)
    spent: Counter[str] = Counter()
    with ExitStack() as watched:
        for owner, name in (
            (Trainer, "train_step"),
            (Trainer, "_report_steps"),
            (Trainer, "_evaluate"),
            (trainer, "predict"),
            (checkpoint.RunCheckpoints, "save"),
            # Which writes the last checkpoint and a best model alike.
            (checkpoint, "write_checkpoint"),
            *((logger, name) for logger in loggers for name in ("on_steps", "on_epoch_end")),
        ):
            watched.enter_context(timed(owner, name, spent))
        training.fit(run, loggers, StopSignal())
    run.close("finished")
    larger = TRAINING_IMAGES / len(prepared.dataset.train)
    saving = spent["write_checkpoint"]
    steps = spent["train_step"] + spent["_report_steps"] - spent["on_steps"]
    logging = spent["_evaluate"] - spent["predict"] + spent["save"] - saving + spent["on_epoch_end"]
    return Counter(
        {
            "training": larger * steps,
            "evaluation": TEST_IMAGES / len(prepared.dataset.validation) * spent["predict"],
            "checkpoints": saving,
            "logging": logging + larger * spent["on_steps"],
        }
    )


def shares(parts: Counter[str]) -> str:
    """Rows of a table: each part, its time, and its share of all."""
    return "\n".join(
        f"| {name} | {1000 * each:,.1f} | {each / parts.total():.1%} |"
        for name, each in parts.most_common()
    )


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description="Say where the time of training goes."
    )
    parser.add_argument("--models", nargs="+", default=[*IMAGES], metavar="MODEL")
    parser.add_argument("--steps", type=int, default=5, help="that are profiled (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    told = parser.parse_args()
    for model in told.models:
        images = 128 * (told.steps + 2)
        prepared = prepared_run(model, images, told.device)
        parts = profile_steps(prepared.build_trainer(), told.steps)
        print(f"\n`{model}`, a step of 128 images, mean of {told.steps}\n")
        print("| part | ms | share |\n|---|---|---|")
        print(shares(parts), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            epoch = time_epoch(prepared, Path(folder) / "run")
        print(f"\n`{model}`, an epoch of 50,000 images, reckoned from one of {images}\n")
        print("| part | ms | share |\n|---|---|---|")
        print(shares(epoch), flush=True)


if __name__ == "__main__":
    main()
