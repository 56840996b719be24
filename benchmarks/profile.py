"""Measure how a training step and an epoch divide their time among their parts.

python -m benchmarks.profile [--models resnet44v2 ...] [--steps 5] [--device cpu|cuda]

torch's profiler measures the steps of a real run. An operation counts with its own time, without
the operations that it calls; on a GPU, with the time of its kernels. "Python and the rest" is the
remaining time of the profiled steps: Python, operations that belong to no part, and on a GPU
waiting for work. It includes the work of the profiler, so it is an upper bound.

For an epoch, evaluation, checkpoints and logging are timed on a short run and scaled to all of
CIFAR-100: 50,000 training images, and 10,000 images to evaluate.
"""

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

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.plain_loop import recipe_overrides
from benchmarks.processes import temporary_folder
from benchmarks.throughput import CPU_IMAGES
from resnet_sweep.config.build import build_loggers
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run
from resnet_sweep.training import checkpoint, trainer
from resnet_sweep.training.signals import StopSignal
from resnet_sweep.training.trainer import Trainer

# An operation belongs to the first part with a word that its name contains.
OPERATIONS = {
    "convolutions": ("conv",),
    "norm and activation": ("batch_norm", "relu", "threshold"),
    "add": ("aten::add",),
    "loss and classifier": ("softmax", "nll_loss", "addmm", "aten::mm", "dropout", "mean"),
}
# Parts that are labelled in the profile, so that all of their operations count as one part.
LABELLED = ("augmentation", "metrics of the step", "optimizer")
REST = "Python and the rest"
TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000


def plan_epoch(model: str, images: int, device: str) -> PlannedRun:
    """Return a run of one epoch with a number of training images."""
    with initialize_config_module("resnet_sweep.conf"):
        config = compose("config", overrides=recipe_overrides(model, images, 1, device))
    return plan_run(OmegaConf.to_container(config, resolve=True))


def labelled(name: str, function: Callable) -> Callable:
    """Return a function with the same result, whose operations have a label in the profile."""

    def call(*arguments: object) -> object:
        with record_function(name):
            return function(*arguments)

    return call


def first_steps(training: Trainer, count: int) -> Iterator[Callable[[], None]]:
    """Yield functions that make the first steps of a training."""
    size = training.config.batch_size
    order = torch.randperm(len(training.train_batches), device=training.device)
    take = labelled("augmentation", training.train_batches.take)
    for step in range(count):

        def make_step(step: int = step) -> None:
            training.step = step
            training.train_step(*take(order[step * size : (step + 1) * size]))

        yield make_step


def profile_steps(training: Trainer, count: int) -> Counter[str]:
    """Return the mean seconds of the parts of a step, over `count` steps after two more steps."""
    training.augmentation = [
        labelled("augmentation", operation) for operation in training.augmentation
    ]
    training.normalize = labelled("augmentation", training.normalize)
    training.step_metrics.update = labelled("metrics of the step", training.step_metrics.update)
    training.model.train()
    first, second, *profiled = first_steps(training, count + 2)
    first()
    second()
    on_gpu = training.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for make_step in profiled:
            make_step()
        if on_gpu:
            torch.cuda.synchronize()
        total = time.perf_counter() - start
    parts: Counter[str] = Counter()
    for event in profiler.events():
        microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if name := find_part(event):
            parts[name] += microseconds / 1e6 / count
    parts[REST] = total / count - parts.total()
    return parts


def find_part(event: torch.autograd.profiler_util.FunctionEvent) -> str | None:
    """Return the part of a step that an operation belongs to; None if it belongs to no part."""
    ancestor = event
    while ancestor is not None:
        for name in LABELLED:
            # torch labels the optimizer's step by itself.
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
    """Add the duration of each call of `owner.name` to `seconds[name]`."""
    function = getattr(owner, name)

    def call(*arguments: object, **keywords: object) -> object:
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            seconds[name] += time.perf_counter() - start

    with patch.object(owner, name, call):
        yield


def time_epoch(planned: PlannedRun, folder: Path) -> Counter[str]:
    """Return the seconds of the parts of an epoch of CIFAR-100, scaled from a short epoch."""
    record = Record(
        signature=planned.signature,
        config=dict(planned.config),
        precision=planned.precision,
        inputs=dict(planned.inputs),
    )
    run = Run.open(folder, record)
    training, loggers = planned.build_trainer(), build_loggers(planned.config)
    seconds: Counter[str] = Counter()
    with ExitStack() as stack:
        for owner, name in (
            (Trainer, "train_step"),
            (Trainer, "_report_steps"),
            (Trainer, "_evaluate"),
            (trainer, "predict"),
            (checkpoint.RunCheckpoints, "save"),
            # This writes both the last checkpoint and the best model.
            (checkpoint, "write_checkpoint"),
            *((logger, name) for logger in loggers for name in ("on_steps", "on_epoch_end")),
        ):
            stack.enter_context(timed(owner, name, seconds))
        training.fit(run, loggers, StopSignal())
    run.close("finished")
    scale = TRAINING_IMAGES / len(planned.dataset.train)
    evaluation_scale = TEST_IMAGES / len(planned.dataset.validation)
    saving = seconds["write_checkpoint"]
    steps = seconds["train_step"] + seconds["_report_steps"] - seconds["on_steps"]
    logging = seconds["_evaluate"] - seconds["predict"]
    logging += seconds["save"] - saving + seconds["on_epoch_end"]
    return Counter(
        {
            "training": scale * steps,
            "evaluation": evaluation_scale * seconds["predict"],
            "checkpoints": saving,
            "logging": logging + scale * seconds["on_steps"],
        }
    )


def print_parts(title: str, parts: Counter[str]) -> None:
    """Print a table with the time of each part and its share of the total."""
    print(f"\n{title}\n")
    print(table_header("part", "ms", "share"))
    for name, seconds in parts.most_common():
        print(table_row(name, f"{1000 * seconds:,.1f}", f"{seconds / parts.total():.1%}"))


def main() -> None:
    """Measure, and print two tables in Markdown for each model."""
    parser = make_parser("profile", __doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=[*CPU_IMAGES],
        metavar="MODEL",
        help=f"default: {', '.join(CPU_IMAGES)}",
    )
    parser.add_argument("--steps", type=int, default=5, help="steps to profile (default: 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    arguments = parser.parse_args()
    for model in arguments.models:
        images = 128 * (arguments.steps + 2)
        planned = plan_epoch(model, images, arguments.device)
        parts = profile_steps(planned.build_trainer(), arguments.steps)
        print_parts(f"`{model}`, a step of 128 images, mean of {arguments.steps}", parts)
        with temporary_folder() as folder:
            parts = time_epoch(planned, folder / "run")
        print_parts(f"`{model}`, an epoch of 50,000 images, scaled from {images}", parts)


if __name__ == "__main__":
    main()
