"""The record of a run: `run.json`."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.soundness import check_record, digest_file, digest_record

# A run in one of these states has come to its end; started again, it only tells its outcome.
ENDED = frozenset({"finished", "stopped_early", "pruned", "diverged"})


@dataclass
class Record:
    """What `run.json` says of a run.

    Attributes:
        signature: tells which training this is.
        state: running, finished, stopped_early, pruned, interrupted, diverged or failed.
        reason: why the run isn't simply running or finished; empty otherwise.
        config: resolved.
        choices: the choice made in each config group.
        overrides: as typed.
        flags: Hydra's flags as typed, such as `--config-dir`.
        parameters: number of trained weights.
        best: `epoch`, `val_acc` (percent), `val_loss` of the epoch with the best accuracy.
        final: `epoch`, `train_acc`, `train_loss`, `val_acc`, `val_loss` of the last epoch.
        gap: final training accuracy less final validation accuracy, in points.
        seconds: spent training and evaluating, over all sittings; None if that isn't known.
        started, ended: times in ISO 8601.
        fingerprint: of the data.
        ranks: how many processes share the run.
        notes: what a reader of the figures should know, a sentence each.
        digests: of the files with the figures of the epochs, by which damage to them is found.
        lease: `host`, `process`, `renewed` of the process at work here, or None.
        digest: of all that `run.json` says beside it.
    """

    signature: str
    state: str = "running"
    reason: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    parameters: int | None = None
    best: dict[str, float] | None = None
    final: dict[str, float] | None = None
    gap: float | None = None
    seconds: float | None = 0.0
    started: str | None = None
    ended: str | None = None
    host: str | None = None
    device: str | None = None
    threads: int | None = None
    ranks: int | None = None
    precision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    seed: int | None = None
    fingerprint: str | None = None
    notes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    lease: dict[str, Any] | None = None
    digest: str | None = None

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """The record in a run directory; keys that this version doesn't know are left out.

        Raises:
            FileNotFoundError, NotADirectoryError: there is none.
            RequestError: it is damaged.
        """
        path = directory / "run.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            check_record(content)
            known = {entry.name for entry in fields(cls)}
            return cls(**{key: value for key, value in content.items() if key in known})
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(
                f"{path} is damaged ({error}): put a sound copy there, or choose another "
                "hydra.run.dir"
            ) from error

    def write(self, directory: Path) -> None:
        """Write `run.json`."""
        content = _finite(asdict(self))
        content["digest"] = digest_record(content)
        text = json.dumps(content, indent=2, allow_nan=False)
        write_atomically(directory / "run.json", text.encode() + b"\n")

    def altered(self, directory: Path) -> list[str]:
        """The files with figures that aren't what a run at its end left in its directory."""
        return [
            name for name, digest in self.digests.items() if digest_file(directory / name) != digest
        ]

    @property
    def ended_for_good(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in ENDED

    @property
    def epochs(self) -> int:
        """How many epochs are asked for, whatever may end them early."""
        trainer = self.config["trainer"]
        last = (trainer.get("early_stopping") or {}).get("epoch")
        return trainer["epochs"] if last is None else min(trainer["epochs"], last)

    def summary(self) -> str:
        """The outcome in the terms of the training log, some lines."""
        if self.best is None or self.final is None:
            return f"{self.state}: {self.reason}" if self.reason else self.state
        loss = self.final.get("train_loss")
        lines = [
            ("Best validation accuracy", f"{_percent(self.best.get('val_acc'))} "
             f"(epoch {self.best.get('epoch')})"),
            ("Final training accuracy", _percent(self.final.get("train_acc"))),
            ("Final validation accuracy", _percent(self.final.get("val_acc"))),
            ("Final training loss", "unknown" if loss is None else f"{loss:.4f}"),
            ("Overfitting gap", _percent(self.gap)),
            ("Time", "unknown" if self.seconds is None else duration(self.seconds)),
        ]  # fmt: skip
        if self.state != "finished":
            lines.insert(0, ("State", f"{self.state}: {self.reason}"))
        lines += [("Note", note) for note in self.notes]
        return "\n".join(f"  {name + ':':27}{value}" for name, value in lines)


def duration(seconds: float) -> str:
    """A time span for people: 8.3 s, 4 min 05 s, 13 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _percent(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.2f}%"


def _finite(value: Any) -> Any:
    """The same content with None for what JSON can't say: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
