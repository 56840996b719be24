"""The CPU time and the memory that a run uses, for `run.json`."""

import contextlib
import os
import sys
import time
from pathlib import Path

import torch

from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record, Usage
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks.callback import Callback, Step

MIB = 2**20


class ResourceUsage(Callback):
    """Measures the CPU time and the largest memory of a run, and adds them to its record.

    The usage of a resumed run includes that of its earlier sessions.

    Args:
        run: the run; its next write of `run.json` contains the usage.
        device: the device that trains.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run, self.device = run, device
        self.earlier = run.record.usage
        # On a GPU, one thread launches the kernels, whatever the number of threads is.
        self.cores = (run.record.threads or 1) if device.type == "cpu" else 1

    def on_train_start(self, directory: Path, step: int) -> None:
        reset_peak_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.started, self.cpu_before = time.monotonic(), cpu_seconds()

    def on_steps(self, steps: list[Step]) -> None:
        self._measure()

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self._measure()

    def on_train_end(self, record: Record) -> None:
        self._measure()

    def _measure(self) -> None:
        gpu_memory = None
        if self.device.type == "cuda":
            gpu_memory = torch.cuda.max_memory_allocated(self.device) / MIB
        usage = Usage(
            cpu_seconds=cpu_seconds() - self.cpu_before,
            core_seconds=(time.monotonic() - self.started) * self.cores,
            peak_memory_mib=peak_memory(),
            peak_gpu_memory_mib=gpu_memory,
        )
        self.run.record.usage = usage if self.earlier is None else add_usage(self.earlier, usage)


def add_usage(earlier: Usage, later: Usage) -> Usage:
    """Return the usage of two sessions of a run: the sums of the times, and the larger memories."""
    return Usage(
        cpu_seconds=earlier["cpu_seconds"] + later["cpu_seconds"],
        core_seconds=earlier["core_seconds"] + later["core_seconds"],
        peak_memory_mib=_larger(earlier["peak_memory_mib"], later["peak_memory_mib"]),
        peak_gpu_memory_mib=_larger(earlier["peak_gpu_memory_mib"], later["peak_gpu_memory_mib"]),
    )


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def cpu_seconds() -> float:
    """Return the CPU time of this process, and of its children that have exited, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, because a process may train several runs.

    This works on Linux only. Elsewhere, `peak_memory` counts from the start of the process.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float | None:
    """Return the largest memory of this process (resident set) in MiB; None if unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    # Python has no function for this on Windows.
    if sys.platform == "win32":
        return None
    import resource

    # The unit is a byte on macOS, and a kibibyte elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
