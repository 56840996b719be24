"""Checkpoints: what is needed to go on, safe against a crash and against damage."""

import io
import logging
import os
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import write_atomically

BEST = "best_model.pth"
LAST = "last_model.pth"
# The last but one, for the case that the last is damaged.
PREVIOUS = "previous_model.pth"

log = logging.getLogger(__name__)


class DamagedCheckpointError(RequestError):
    """A checkpoint that can't be read, or whose content isn't what was written."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        state: of tensors, numbers, strings, None, and lists and dicts of these.
    """
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save({**state, "digest": digest(state)}, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Nothing in it is executed.

    Raises:
        FileNotFoundError: there is none.
        DamagedCheckpointError: it is damaged.
    """
    content = path.read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        stored = state.pop("digest")
    # A damaged file can raise nearly anything; whatever it raises, it can't be used.
    except Exception as error:
        reason = f"it can't be read: {type(error).__name__}"
    else:
        if stored == digest(state):
            return state
        reason = "its content isn't what was written"
    raise DamagedCheckpointError(
        f"{path} is damaged ({reason}): remove it, and start its run again"
    )


def write_last(directory: Path, state: dict[str, Any]) -> None:
    """Write a run's last checkpoint, and keep the one before it.

    Args:
        directory: `checkpoints/` of the run.
        state: as for `write_checkpoint`.
    """
    if (directory / LAST).exists():
        os.replace(directory / LAST, directory / PREVIOUS)
    write_checkpoint(directory / LAST, state)


def read_last(directory: Path, signature: str) -> dict[str, Any] | None:
    """The newest sound checkpoint of a run; None if there is none.

    Args:
        directory: `checkpoints/` of the run.
        signature: of the run; a checkpoint of another one is not used.
    """
    for name in (LAST, PREVIOUS):
        try:
            state = read_checkpoint(directory / name)
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as error:
            log.warning("warning: %s; going on without it", str(error).partition(":")[0])
            continue
        if state.get("signature") == signature:
            return state
        log.warning("warning: %s belongs to another run; going on without it", directory / name)
    return None


def digest(state: Any) -> str:
    """A hash of all that a checkpoint holds."""
    hasher = blake2b(digest_size=16)
    for part in _parts(state):
        hasher.update(struct.pack("<Q", len(part)))
        hasher.update(part)
    return hasher.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, dict):
        yield b"dict %d" % len(value)
        for key, entry in value.items():
            yield repr(key).encode()
            yield from _parts(entry)
    elif isinstance(value, (list, tuple)):
        yield b"list %d" % len(value)
        for entry in value:
            yield from _parts(entry)
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        plain = value.detach().cpu().contiguous().reshape(-1)
        yield memoryview(plain.view(torch.uint8).numpy())
    else:
        yield repr(value).encode()
