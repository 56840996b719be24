"""Where a run is carried out, and how exactly it computes there."""

import ctypes
import os
import resource
from pathlib import Path

import torch

from resnet_sweep.errors import RequestError
from resnet_sweep.training.ranks import Ranks

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_DEFAULT_THREADS = torch.get_num_threads()
# Of glibc's malloc.h. Larger blocks than 32 MB it maps by themselves in any case.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20


def resolve_device(name: str) -> torch.device:
    """The device that `trainer.device` asks for; "auto" prefers a GPU.

    Raises:
        RequestError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(
            f"trainer.device={name} is no device: choose auto, cpu, cuda, cuda:1 or mps"
        ) from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= available.get(device.type, 0):
        present = [kind for kind, count in available.items() if count]
        raise RequestError(
            f"trainer.device={name} isn't there: this machine has {' and '.join(present)}, so "
            "choose one of these, or auto"
        )
    return device


def place_rank(device: torch.device, ranks: Ranks) -> torch.device:
    """The device of one of the processes that share a run: each has a GPU of its machine, by its
    number there.

    Raises:
        RequestError: there is none for it, or the setting means the same one for all.
    """
    if ranks.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        raise RequestError(
            f"trainer.device={device} can't be shared by {ranks.size} processes: choose cuda, by "
            "which each has a GPU of its own, or cpu"
        )
    count = torch.cuda.device_count()
    if ranks.local_rank >= count:
        raise RequestError(
            f"this machine has fewer GPUs ({count}) than processes: choose "
            f"--nproc_per_node={count}, or trainer.device=cpu"
        )
    return torch.device("cuda", ranks.local_rank)


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision that `trainer.precision` comes to on a device: "float32" or "bfloat16".

    Raises:
        RequestError: bfloat16 on a device that only emulates it, many times slower.
    """
    fast = has_fast_bfloat16(device)
    if name == "bfloat16" and not fast:
        raise RequestError(
            f"trainer.precision=bfloat16 would be emulated on this {device.type}, many times "
            "slower than float32: choose float32, or auto"
        )
    if name == "auto":
        return "bfloat16" if fast else "float32"
    return name


def check_compile(compile: str, device: torch.device, ranks: Ranks) -> None:
    """See that a device can do what `trainer.compile` asks for.

    Raises:
        RequestError: it can't, since it isn't CUDA's, or one of several that share the run.
    """
    if compile != "none" and device.type != "cuda":
        raise RequestError(
            f"trainer.compile={compile} is for CUDA devices, and this run's is {device.type}: "
            "choose none"
        )
    if compile != "none" and ranks.size > 1:
        raise RequestError(
            f"trainer.compile={compile} records the steps of one process, but {ranks.size} share "
            "this run: choose none"
        )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # AMX is what makes bfloat16 pay on a CPU; AVX-512 alone doesn't.
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def configure(device: torch.device, precision: str, threads: int | None) -> None:
    """Have this process compute as a run asks: see `set_exactness` and `set_threads`."""
    set_threads(threads)
    set_exactness(device, precision)
    if device.type == "cpu":
        keep_freed_memory()


def set_exactness(device: torch.device, precision: str) -> None:
    """Have "float32" mean 24 significant bits on a GPU too, and not TensorFloat-32's eleven."""
    if device.type == "cuda" and precision == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def set_threads(threads: int | None) -> int:
    """Have torch use this many CPU threads, None for its own choice; returns how many it is."""
    torch.set_num_threads(threads or _DEFAULT_THREADS)
    return torch.get_num_threads()


def keep_freed_memory() -> None:
    """Have glibc keep what a training step frees for the next one, for the rest of this process.

    Otherwise it gives much of it back to the system, which has to clear it again, page by page. C
    libraries without such a setting do as they do.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        # None is too large to be kept.
        mallopt(_M_TRIM_THRESHOLD, -1)


def memory_bytes() -> int:
    """The memory that this process may have: the machine's, or less by a limit on it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    # Of a container.
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path("/sys/fs/cgroup", path).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)
