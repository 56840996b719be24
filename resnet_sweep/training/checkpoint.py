"""Checkpoints: what is needed to go on, safe against a crash and against damage."""

import io
import logging
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import write_atomically

BEST = "best_model.pth"
# The best until the last checkpoint knows of it.
NEXT_BEST = "next_best_model.pth"
LAST = "last_model.pth"
# The last but one, for the case that the last is damaged.
PREVIOUS = "previous_model.pth"

log = logging.getLogger(__name__)


class DamagedCheckpointError(RequestError):
    """A checkpoint that can't be read, or whose content isn't what was written."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged ({reason}): put a sound copy there, or train the run anew with "
            "trainer.resume=false"
        )
        self.reason = reason


def write_checkpoint(path: Path, state: dict[str, Any], backup: Path | None = None) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: the file.
        state: of tensors, numbers, strings, None, and lists and dicts of these.
        backup: what was at `path` goes there.
    """
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save({**state, "digest": digest(state)}, buffer)
    write_atomically(path, buffer.getvalue(), backup)


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
    raise DamagedCheckpointError(path, reason)


def write_last(directory: Path, state: dict[str, Any]) -> None:
    """Write a run's last checkpoint, and keep the one before it.

    Args:
        directory: `checkpoints/` of the run.
        state: as for `write_checkpoint`.
    """
    write_checkpoint(directory / LAST, state, backup=directory / PREVIOUS)


def read_last(directory: Path, signature: str) -> dict[str, Any] | None:
    """The newest sound checkpoint of a run; None if there is none.

    One that can't be used is set aside, lest it take the place of a sound one.

    Args:
        directory: `checkpoints/` of the run.
        signature: of the run; a checkpoint of another one is not used.
    """
    for path in (directory / LAST, directory / PREVIOUS):
        try:
            state = read_checkpoint(path)
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as error:
            reason = error.reason
        else:
            if state.get("signature") != signature:
                reason = "it belongs to another run"
            elif "rows" not in state:
                reason = "it has weights alone"
            else:
                return state
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        log.warning(
            "warning: %s can't be used (%s); it is %s now, and the run goes on without it",
            path, reason, aside.name,
        )  # fmt: skip
    return None


def settle_best(directory: Path, epoch: int | None) -> None:
    """Finish what a killed process began: the change to a new best checkpoint.

    Args:
        directory: `checkpoints/` of the run.
        epoch: the best of those that the run's last checkpoint knows of.
    """
    path = directory / NEXT_BEST
    if not path.exists():
        return
    try:
        settled = read_checkpoint(path).get("epoch") == epoch
    except DamagedCheckpointError:
        settled = False
    if settled:
        path.replace(directory / BEST)
    else:
        path.unlink()


def fault_of_best(directory: Path, signature: str, epoch: int | None) -> str | None:
    """Why a run's best checkpoint can't be used, as a clause; None if it can.

    Args:
        directory: `checkpoints/` of the run.
        signature: of the run.
        epoch: the best of those that the run's last checkpoint knows of.
    """
    try:
        state = read_checkpoint(directory / BEST)
    except FileNotFoundError:
        return "it is gone"
    except DamagedCheckpointError as error:
        return error.reason
    if state.get("signature") != signature:
        return "it belongs to another run"
    return None if state.get("epoch") == epoch else "it isn't of the best epoch"


def copy_state(state: Any) -> Any:
    """A checkpoint's state on the CPU, which stays as it is when the training goes on."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copy_state(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(copy_state, state))
    return state


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
