"""Device, precision, threads and memory of a run."""

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from resnet_sweep.errors import ConfigError
from resnet_sweep.training.config import CompileMode
from resnet_sweep.training.distributed import ProcessGroup

# The default of torch, read before anything changes it.
_DEFAULT_THREADS = torch.get_num_threads()
# These numbers are from glibc's malloc.h. glibc always maps blocks larger than 32 MB separately.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20


def resolve_device(name: str) -> torch.device:
    """Return the device that `trainer.device` names; "auto" prefers a GPU.

    Raises:
        ConfigError: this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    present = [kind for kind, count in available.items() if count]
    if name == "auto":
        return torch.device(present[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"trainer.device={name} isn't a device: choose auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if (device.index or 0) >= available.get(device.type, 0):
        raise ConfigError(
            f"trainer.device={name} isn't available: this machine has {' and '.join(present)}, so "
            "choose one of these, or auto"
        )
    return device


def place_rank(device: torch.device, process_group: ProcessGroup) -> torch.device:
    """Return the device of this process. If several processes use GPUs, each has its own.

    Raises:
        ConfigError: there is no GPU for this process, or `trainer.device` names the same GPU for
            all processes.
    """
    if process_group.world_size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise ConfigError(
            f"trainer.device={device} can't be shared by {process_group.world_size} processes: "
            "choose cuda, which gives each process its own GPU, or cpu"
        )
    count, local_rank = torch.cuda.device_count(), process_group.torchrun.local_rank
    if local_rank >= count:
        raise ConfigError(
            f"this machine has fewer GPUs ({count}) than processes: choose "
            f"--nproc_per_node={count}, or trainer.device=cpu"
        )
    return torch.device("cuda", local_rank)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # On a CPU, bfloat16 is faster with AMX; AVX-512 alone isn't enough.
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def resolve_precision(name: str, device: torch.device, elsewhere: bool = False) -> str:
    """Resolve `trainer.precision` on a device to "float32" or "bfloat16".

    Args:
        name: the setting.
        device: a device of this machine.
        elsewhere: whether another machine, with unknown devices, trains the run.

    Raises:
        ConfigError: the device only emulates bfloat16, which is many times slower.
    """
    fast = has_fast_bfloat16(device)
    if name == "bfloat16" and not fast and not elsewhere:
        raise ConfigError(
            f"trainer.precision=bfloat16 would be emulated on this {device.type}, which is many "
            "times slower than float32: choose float32, or auto"
        )
    if name == "auto":
        return "bfloat16" if fast else "float32"
    return name


def check_compile(
    mode: CompileMode | None, device: torch.device, process_group: ProcessGroup
) -> None:
    """Check that `trainer.compile` works on a device.

    Raises:
        ConfigError: there is no C++ compiler, which torch needs on a CPU, or several processes
            train the run.
    """
    if mode is None:
        return
    if process_group.world_size > 1:
        raise ConfigError(
            f"trainer.compile={mode} works in a single process only, but "
            f"{process_group.world_size} processes train this run: choose trainer.compile=null"
        )
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"trainer.compile={mode} needs a C++ compiler on a CPU, and there is no {compiler}: "
            "install it, name another in $CXX, or choose trainer.compile=null"
        )


def compile_model(model: nn.Module, mode: CompileMode) -> nn.Module:
    """Return a module that runs a model's forward and backward pass compiled by `torch.compile`.

    The module shares its weights with `model`. Each shape of a batch is compiled in its first step,
    which takes seconds to minutes: the full batch, the last, smaller batch of an epoch, and each
    size of progressive resizing. Dropout and stochastic depth draw the same random numbers as
    without compilation, so results differ only by rounding.
    """
    # torch limits the number of recompilations. Without the reset, it would count the compilations
    # of earlier runs of this process, too.
    torch.compiler.reset()
    # torch.compile takes either a mode or options, and torch's own random numbers are an option.
    options = {**torch._inductor.list_mode_options(mode), "fallback_random": True}
    compiled = torch.compile(model, dynamic=False, options=options)
    # torch.compile is declared to return a function, but returns a module for a module.
    assert isinstance(compiled, nn.Module)
    return compiled


def configure(device: torch.device, precision: str, threads: int | None) -> None:
    """Set this process's threads, precision and memory allocator for a run."""
    set_threads(threads)
    configure_tf32(device, precision)
    if device.type == "cpu":
        keep_freed_memory()


def configure_tf32(device: torch.device, precision: str) -> None:
    """Turn off TensorFloat-32, which has 11 significant bits, for float32 on a GPU."""
    if device.type == "cuda" and precision == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def set_threads(threads: int | None) -> int:
    """Set the number of CPU threads, and return it; None sets torch's default."""
    torch.set_num_threads(threads or _DEFAULT_THREADS)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Configure glibc to keep the memory that a training step frees, for the rest of this process.

    By default, glibc returns much of that memory to the system, which has to clear every page
    before the next step. Other C libraries have no such setting.
    """
    if sys.platform == "win32":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        # -1 keeps free memory of any size.
        mallopt(_M_TRIM_THRESHOLD, -1)


def memory_bytes() -> int:
    """Return the number of bytes that this process may use: the memory, or a lower limit."""
    # Python has no function for this on Windows.
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    # Containers set these memory limits, of cgroup version 2 and 1. "max" means no limit.
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path("/sys/fs/cgroup", path).read_text()))
    return min(limits)
