"""Compose, sweep and compare small-vision training runs.

The functions do what the commands do, with the same overrides and the same files:

    import resnet_sweep

    run = resnet_sweep.train(["experiment=quickstart", "trainer.epochs=3"])
    sweep = resnet_sweep.sweep(["experiment=quickstart", "optim.lr=0.1,0.05", "seed=0,1"])
    runs = resnet_sweep.load_runs("multirun")

The names are imported when they are first used, so that this package is imported fast. Only
training and loading a network import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_sweep.api.runs import Diff, Run, Runs, diff, load_run, load_runs
    from resnet_sweep.api.sweep import Sweep
    from resnet_sweep.api.training import compose, sweep, train
    from resnet_sweep.errors import ConfigError, InternalError, InvalidJobs, RunFailed

__all__ = [
    "ConfigError",
    "Diff",
    "InternalError",
    "InvalidJobs",
    "Run",
    "RunFailed",
    "Runs",
    "Sweep",
    "compose",
    "diff",
    "load_run",
    "load_runs",
    "sweep",
    "train",
]

_MODULES = {
    "api.runs": ("Diff", "Run", "Runs", "diff", "load_run", "load_runs"),
    "api.sweep": ("Sweep",),
    "api.training": ("compose", "sweep", "train"),
    "errors": ("ConfigError", "InternalError", "InvalidJobs", "RunFailed"),
}


# A type checker would take this function as a promise that any name exists.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        for module, names in _MODULES.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
