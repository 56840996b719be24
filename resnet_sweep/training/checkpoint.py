"""Checkpoints that survive crashes and detect damage."""

import io
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from resnet_sweep.data.dataset import DataDescription
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.metrics import LayerNorms, Row, best_row, write_layer_norms
from resnet_sweep.runs.record import Record, SharedEpochs
from resnet_sweep.runs.run import Run, weights_directory
from resnet_sweep.training.config import EarlyStopping

BEST = "best_model.pth"
LAST = "last_model.pth"
# The checkpoint before the last one. It is used if the last one is damaged.
PREVIOUS = "previous_model.pth"

State = dict[str, Any]

log = logging.getLogger(__name__)


class DamagedCheckpointError(ConfigError):
    """A checkpoint can't be read, or its content doesn't match its digest."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} is damaged ({reason}): restore it, or start the run over with "
            "trainer.resume=false"
        )
        self.reason = reason


class RunCheckpoints:
    """Saves and loads the checkpoints of a run, and writes the metrics files that match them.

    Args:
        layers: names of the layers whose norms a state contains.
        in_thread: write in a thread, while a GPU trains. Otherwise, `save` returns after writing.
        data: the description of the data, which the best model contains.
    """

    def __init__(
        self, run: Run, layers: Sequence[str], in_thread: bool, data: DataDescription
    ) -> None:
        self.run, self.layers, self.data = run, layers, asdict(data)
        self.directory = run.directory / "checkpoints"
        self._thread = ThreadPoolExecutor(1, "writer") if in_thread else None
        self._unfinished: Future[None] | None = None

    def load(self, epoch_keys: Sequence[str], early_stopping: EarlyStopping) -> State | None:
        """Return the newest valid state of the run, or None if there is none.

        It can be a state of another run that has trained the first epochs. The metrics files are
        written again to match the state, and so is the best model if the state has its weights.

        Args:
            epoch_keys: the keys of the run's epochs. Another run's state must have the key of its
                last epoch.
            early_stopping: when the run ends. A later state of another run isn't used.
        """
        signature = self.run.record.signature
        state = read_last(self.directory, signature)
        if state is None:
            state = self._load_shared(epoch_keys, early_stopping)
            if state is None:
                self._write_metrics([], [])
            return state
        best = best_row(state["rows"])
        if best is not None and not self._write_best(state):
            error = check_best(self.directory, signature, int(best["epoch"]))
            if error is not None:
                log.warning(
                    "warning: %s can't be used (%s); it is replaced if a later epoch is better, or "
                    "if trainer.resume=false starts the run over",
                    self.directory / BEST,
                    error,
                )
        self._write_metrics(state["rows"], state["layers"].tolist(), state.get("epoch_key"))
        self._keep_copy(state)
        return state

    def _load_shared(
        self, epoch_keys: Sequence[str], early_stopping: EarlyStopping
    ) -> State | None:
        """Copy the state at the end of the epochs that another run has trained for this one.

        Returns:
            The state; None if no epochs are shared, or if there is no valid checkpoint.
        """
        start = self.run.record.start_from
        if start is None:
            self.run.record.shared_epochs = None
            return None
        # A folder of the path may be a link, and the system would resolve ".." after the link.
        source = Path(os.path.normpath(self.run.directory / start["directory"]))
        folder = source / "checkpoints"
        reasons = [*self._describe_threads(source)]
        paths = () if reasons else (kept_copy(folder, start["epochs"]), folder / LAST)
        for path in paths:
            try:
                state = read_shared(path, epoch_keys)
                stop = early_stopping.first_stop(state["rows"])
                if stop is not None and stop < len(state["rows"]):
                    path = kept_copy(folder, stop)
                    state = read_shared(path, epoch_keys)
            except FileNotFoundError:
                reasons.append(f"{path.name} is missing")
            except DamagedCheckpointError as error:
                reasons.append(f"{path.name}: {error.reason}")
            except OSError as error:
                reasons.append(f"{path.name}: {error.strerror or error}")
            else:
                epochs = len(state["rows"])
                self.run.update(
                    shared_epochs=SharedEpochs(directory=start["directory"], epochs=epochs)
                )
                # The best model is written first, because `_write` writes it only at its own epoch.
                self._write_best_model(best_row(state["rows"]) or {}, state.pop("best"))
                state["signature"] = self.run.record.signature
                self._write(state)
                log.info("continues %s after epoch %d", start["directory"], epochs)
                return state
        log.warning(
            "warning: the epochs that %s has trained can't be used (%s); this run trains them, too",
            start["directory"],
            "; ".join(reasons),
        )
        self.run.update(shared_epochs=None)
        return None

    def _describe_threads(self, source: Path) -> Iterator[str]:
        """Yield a text if another run had other threads, because they change the rounding."""
        own = self.run.record
        try:
            threads = Record.read(source).threads
        except (OSError, ConfigError):
            return
        if own.device == "cpu" and None not in (threads, own.threads) and threads != own.threads:
            yield f"it was trained with {threads} threads instead of {own.threads}"

    def save(self, state: State) -> None:
        """Save a state of the trainer, after waiting for the previous save.

        Raises:
            OSError: the previous save failed, or this one failed and isn't in a thread.
            LockLostError: another process has taken over the run.
        """
        self.wait()
        if self._thread is None:
            self._write(state)
        else:
            self._unfinished = self._thread.submit(self._write, copy_state(state))

    def wait(self) -> None:
        """Wait until everything is written; raise the error of a save that failed."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.result()

    def _write(self, state: State) -> None:
        self.run.verify_ownership()
        # The copy is written before the last checkpoint, so that a process that is killed while it
        # writes the copy trains the epoch again and then writes it.
        self._keep_copy(state)
        write_last(self.directory, {"signature": self.run.record.signature, **state})
        # The best model is written after the last checkpoint. If the process is killed in between,
        # the best model can be written from the last checkpoint.
        self._write_best(state)
        self._write_metrics(state["rows"], state["layers"].tolist(), state.get("epoch_key"))

    def _keep_copy(self, state: State) -> None:
        """Write a copy of a state for other runs if it is the end of an epoch that they need."""
        rows, record = state["rows"], self.run.record
        epoch = len(rows)
        path = kept_copy(self.directory, epoch)
        needed = epoch in record.keep_epochs or any(
            EarlyStopping(**stop).first_stop(rows) == epoch for stop in record.keep_stops
        )
        if state["step"] or not needed or path.exists():
            return
        try:
            best = _best_weights(state, self.directory)
        except (FileNotFoundError, DamagedCheckpointError) as error:
            log.warning(
                "warning: no checkpoint of epoch %d is kept for other runs, because %s can't be "
                "used (%s)",
                epoch,
                BEST,
                error,
            )
            return
        signature = self.run.record.signature
        write_checkpoint(path, {"signature": signature, **state, "best": best})

    def _write_best(self, state: State) -> bool:
        """Write the best model if `state` is the end of the best epoch; return whether it is."""
        best = best_row(state["rows"])
        if best is None or best is not state["rows"][-1] or state["step"]:
            return False
        self._write_best_model(best, evaluated_weights(state))
        return True

    def _write_best_model(self, best: Row, weights: State) -> None:
        metrics = {name: best[name] for name in ("epoch", "val_acc", "val_loss")}
        model = {"signature": self.run.record.signature, "model": weights}
        write_checkpoint(self.directory / BEST, {**metrics, "data": self.data, **model})

    def _write_metrics(
        self, rows: list[Row], epochs: list[list[list[float]]], epoch_key: str | None = None
    ) -> None:
        layers = [
            [LayerNorms(name, *norms) for name, norms in zip(self.layers, epoch, strict=True)]
            for epoch in epochs
        ]
        write_layer_norms(self.run.directory, layers)
        self.run.write_metrics(rows, epoch_key)


def kept_copy(folder: Path, epoch: int) -> Path:
    """Return the path of the copy of a checkpoint that is kept for other runs."""
    return folder / f"epoch_{epoch}.pth"


def kept_copies(folder: Path) -> list[int]:
    """Return the epochs of the copies in `checkpoints/` that are kept for other runs."""
    names = (path.stem.removeprefix("epoch_") for path in folder.glob("epoch_*.pth"))
    return sorted(int(name) for name in names if name.isdecimal())


def read_shared(path: Path, epoch_keys: Sequence[str]) -> State:
    """Read a state from which another run can continue, with its best weights in `best`.

    Args:
        path: a kept copy, or the last checkpoint of a run.
        epoch_keys: the keys of the epochs of the other run.

    Raises:
        FileNotFoundError: there is no file, or no best model that belongs to it.
        DamagedCheckpointError: it is damaged, or has none of the keys.
    """
    state = read_checkpoint(path)
    rows = state.get("rows")
    if not rows or state["step"] or len(rows) > len(epoch_keys):
        raise DamagedCheckpointError(path, "it isn't the end of an epoch of this run")
    if state.get("epoch_key") != epoch_keys[len(rows) - 1]:
        raise DamagedCheckpointError(path, "its epochs aren't those of this run")
    if "best" not in state:
        state["best"] = _best_weights(state, path.parent)
    return state


def _best_weights(state: State, folder: Path) -> State:
    """Return the weights at the end of the best epoch of a state in `checkpoints/`."""
    best = best_row(state["rows"])
    if best is None or best is state["rows"][-1]:
        return evaluated_weights(state)
    found = read_checkpoint(folder / BEST, state.get("signature"))
    if found.get("epoch") != best["epoch"]:
        raise DamagedCheckpointError(folder / BEST, "it isn't from the best epoch")
    weights: State = found["model"]
    return weights


def evaluated_weights(state: State) -> State:
    """Return the weights in a state that are evaluated: the first average, if there is one."""
    weights: State = next(iter(state["emas"].values()), state["model"])
    return weights


def write_checkpoint(path: Path, state: State, backup: Path | None = None) -> None:
    """Write a checkpoint atomically, with a digest of its content.

    Args:
        state: tensors, numbers, strings, None, and lists and dicts of these.
        backup: path to which an existing file at `path` is moved; None replaces it.
    """
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save({**state, "digest": digest(state)}, buffer)
    write_atomically(path, buffer.getvalue(), backup)


def read_checkpoint(path: Path, signature: str | None = None) -> State:
    """Read a checkpoint onto the CPU. Nothing in it is executed.

    Args:
        signature: signature of the run that the checkpoint must belong to; None for any run.

    Raises:
        DamagedCheckpointError: the file is damaged, or belongs to another run.
        OSError: it can't be opened.
    """
    content = path.read_bytes()
    try:
        state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        stored = state.pop("digest")
    # A damaged file can raise errors of nearly any type.
    except Exception as error:
        raise DamagedCheckpointError(path, f"it can't be read: {type(error).__name__}") from error
    if stored != digest(state):
        raise DamagedCheckpointError(path, "its content doesn't match its digest")
    if signature not in (None, state.get("signature")):
        raise DamagedCheckpointError(path, "it belongs to another run")
    return state


def write_last(directory: Path, state: State) -> None:
    """Write the last checkpoint of a run into `checkpoints/`, and keep the previous one."""
    write_checkpoint(directory / LAST, state, backup=directory / PREVIOUS)


def read_last(directory: Path, signature: str) -> State | None:
    """Return the newest valid checkpoint in `checkpoints/` of a run, or None if there is none.

    A checkpoint that can't be used is renamed. Otherwise, the next save would overwrite
    a valid previous checkpoint with it.
    """
    for path in (directory / LAST, directory / PREVIOUS):
        try:
            state = read_checkpoint(path, signature)
            if "rows" in state:
                return state
            reason = "it contains only weights"
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as error:
            reason = error.reason
        renamed = path.with_name(f"{path.name}.damaged")
        path.replace(renamed)
        log.warning(
            "warning: %s can't be used (%s); it was renamed to %s, and the run continues "
            "without it",
            path,
            reason,
            renamed.name,
        )
    return None


def check_best(directory: Path, signature: str, epoch: int) -> str | None:
    """Return the reason if the best model in `checkpoints/` can't be used, or None if it can."""
    try:
        found = read_checkpoint(directory / BEST, signature).get("epoch")
    except FileNotFoundError:
        return "it is missing"
    except DamagedCheckpointError as error:
        return error.reason
    return None if found == epoch else "it isn't from the best epoch"


def best_path(directory: Path, record: Record) -> Path:
    """Return the path of the best checkpoint of a run, which may have been trained elsewhere.

    Raises:
        ConfigError: the run was trained in a directory that no longer contains it.
    """
    return weights_directory(directory, record) / "checkpoints" / BEST


def read_best(directory: Path, record: Record) -> State:
    """Return the best checkpoint of a run, after checking that it belongs to the run.

    The checkpoint of a reused run is in the directory in which the run was trained.

    Raises:
        ConfigError: the run has no valid checkpoint.
    """
    if record.best is None:
        raise ConfigError(
            f"{directory} has no checkpoint, because its run ({record.state}) hasn't completed an "
            "epoch: resume the run, or name another one"
        )
    path = best_path(directory, record)
    advice = "restore the run's own file, or retrain the run with trainer.resume=false"
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: {advice}") from error
    expected = {**record.best, "signature": record.signature}
    for name in ("signature", "epoch", "val_acc"):
        if checkpoint.get(name) != expected.get(name):
            raise ConfigError(
                f"{path} isn't the run's best checkpoint (its {name} is {checkpoint.get(name)} "
                f"instead of {expected.get(name)}): {advice}"
            )
    return checkpoint


def copy_state(state: Any) -> Any:
    """Copy a state to the CPU; training doesn't change the copy."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: copy_state(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map(copy_state, state))
    return state


def digest(state: Any) -> str:
    """Return a hash of everything in a state."""
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
        plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield plain.numpy().data
    else:
        yield repr(value).encode()
