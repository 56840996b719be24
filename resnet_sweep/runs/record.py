"""The record of a run: `run.json`."""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

# Before Python 3.12, pydantic doesn't support typing.TypedDict.
from typing_extensions import TypedDict

from resnet_sweep.errors import ConfigError, InvalidFileError, describe_errors
from resnet_sweep.runs.files import digest_file, write_atomically
from resnet_sweep.runs.metrics import Metric

if TYPE_CHECKING:
    Json = Any
else:
    # With this type, mypy would require a type check wherever a config is read.
    from pydantic import JsonValue as Json

State = Literal[
    "pending", "running", "finished", "stopped_early", "pruned", "interrupted", "diverged", "failed"
]
# The state of a planned run that hasn't started.
PENDING: State = "pending"
# A run in one of these states isn't trained again. If it is started again, its results are printed.
ENDED: frozenset[State] = frozenset({"finished", "stopped_early", "pruned", "diverged"})

HEARTBEAT_SECONDS = 20
# A process that hasn't renewed its heartbeat for this long counts as dead.
STALE_SECONDS = 120

NAME = "run.json"
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


def _check_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time needs an offset from UTC")
    return text


Time = Annotated[str, AfterValidator(_check_time)]
Count = Annotated[int, Ge(1), Le(10**15)]
# Sums and squares of larger numbers than these overflow. A loss is at most 3.4e38.
Number = Annotated[float, Ge(-1e100), Le(1e100)]
Amount = Annotated[float, Ge(0), Le(1e15)]


class BestEpoch(TypedDict):
    """The epoch with the best validation accuracy; accuracies are in percent."""

    epoch: Count
    val_acc: Number | None
    val_loss: Number | None


class FinalEpoch(BestEpoch):
    """The last epoch."""

    train_acc: Number | None
    train_loss: Number | None


class Progress(TypedDict, total=False):
    """The position of training: `step` out of the `steps` of an epoch."""

    epoch: Count
    step: int
    steps: Count
    images_per_second: Number


class Usage(TypedDict):
    """What the process of a run used, in all its sessions; under torchrun, rank 0.

    `cpu_seconds` is the CPU time of the process and of its children. `core_seconds` is the elapsed
    time, multiplied by the number of threads if the device is a CPU. A MiB is 2**20 bytes.
    """

    cpu_seconds: Amount
    core_seconds: Amount
    peak_memory_mib: Amount | None
    peak_gpu_memory_mib: Amount | None


class Heartbeat(Progress):
    """The process that trains a run; `renewed` is the Unix time of the last renewal in seconds."""

    host: str
    process: int
    renewed: Number


class SharedEpochs(TypedDict):
    """The first epochs of a run, which another run has trained.

    `directory` is that run's directory, relative to the directory of this run.
    """

    directory: str
    epochs: Count


class PatienceRule(TypedDict):
    """Early stopping by a metric; see `EarlyStopping`."""

    patience: Count
    metric: Metric
    min_delta: Number


@dataclass
class Record:
    """The content of `run.json`.

    Attributes:
        signature: identifies what is trained; see `signature.sign`.
        reason: explains a state other than pending, running and finished; otherwise empty.
        config: the composed config, with its interpolations resolved.
        choices: the choice made in each config group.
        overrides: the overrides, as typed.
        hydra_flags: the flags with which Hydra finds the same config files, such as `--config-dir`.
        parameters: number of trainable weights.
        gap: final training accuracy minus final validation accuracy, in percentage points.
        seconds: time of training and evaluation, including the time before interruptions; None
            if unknown.
        usage: CPU time and memory; None if unknown.
        started, ended: times in ISO 8601.
        git_commit, code_commit: git commits of the program and of the user's own code.
        world_size: number of processes that share the run.
        inputs: digests of what a run uses besides its config, by name: `data` is the fingerprint
            of the data, `code.FILE` a digest of a file of the user's own code, and `init_from` a
            digest of the starting weights. The signature contains them.
        notes: remarks that a reader of the results needs, one sentence each.
        epoch_key: identifies all that the epochs so far depend on, see
            `resnet_sweep.config.epoch_keys`; None before the end of the first epoch.
        shared_epochs: the epochs that another run has trained for this run; None if there are none.
        start_from: the epochs that another run is expected to have trained when this run starts;
            None if it starts at its first epoch.
        keep_epochs: epochs after which a copy of the last checkpoint is kept for other runs.
        keep_stops: rules of early stopping of other runs. A copy is kept after the epoch in which
            one of these runs would end.
        digests: digests of the metrics files, to detect changed files.
        heartbeat: the process that trains the run; None if there is none.
        reused_from: the directory in which the run was trained, as an absolute path, if a sweep or
            a study reuses it; None if it was trained in its own directory.
        digest: digest of the other keys of `run.json`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    signature: str
    state: State = "running"
    reason: str = ""
    config: dict[str, Json] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    hydra_flags: list[str] = field(default_factory=list)
    parameters: Annotated[int, Ge(0), Le(10**15)] | None = None
    best: BestEpoch | None = None
    final: FinalEpoch | None = None
    gap: Number | None = None
    seconds: Number | None = 0.0
    usage: Usage | None = None
    started: Time | None = None
    ended: Time | None = None
    host: str | None = None
    device: str | None = None
    threads: Count | None = None
    world_size: Count | None = None
    precision: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    code_commit: str | None = None
    seed: Annotated[int, Ge(0)] | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    epoch_key: str | None = None
    shared_epochs: SharedEpochs | None = None
    start_from: SharedEpochs | None = None
    keep_epochs: list[Count] = field(default_factory=list)
    keep_stops: list[PatienceRule] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    reused_from: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, content: bytes) -> "Record":
        """Parse the content of a `run.json`, and ignore unknown keys.

        Raises:
            InvalidFileError: it isn't valid, or was changed after the run wrote it.
        """
        try:
            values = from_json(content, allow_inf_nan=False)
            record = _ADAPTER.validate_json(content)
        except ValidationError as error:
            raise InvalidFileError(f"{NAME}: {describe_errors(error)}") from error
        except ValueError as error:
            raise InvalidFileError(f"{NAME} isn't JSON ({error})") from error
        if record.digest is not None and record.digest != digest_record(values):
            raise InvalidFileError(f"the digest in {NAME} doesn't match, so the file was changed")
        return record

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Read the record in a run directory.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no `run.json`.
            ConfigError: it can't be read or isn't valid.
        """
        path = directory / NAME
        try:
            return cls.parse(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise
        except (OSError, InvalidFileError) as error:
            raise ConfigError(
                f"{path} can't be read ({error}): restore it, or choose another hydra.run.dir, or "
                "for a sweep another hydra.sweep.dir"
            ) from error

    def write(self, directory: Path, durable: bool = True) -> None:
        """Write `run.json`; see `write_atomically`."""
        # The content is encoded and decoded once, so that the digest fits the content that will be
        # read. Keys become text, NaN and infinity become null, and a byte of a file name that isn't
        # UTF-8 becomes a question mark.
        text = json.dumps(asdict(self), ensure_ascii=False).encode(errors="replace")
        content = json.loads(text, parse_constant=lambda number: None)
        content["digest"] = digest_record(content)
        written = json.dumps(content, indent=2, allow_nan=False)
        write_atomically(directory / NAME, written.encode() + b"\n", durable=durable)

    def altered(self, directory: Path) -> list[str]:
        """Return the names of the metrics files that were changed after the run wrote them."""
        return [
            name for name, digest in self.digests.items() if digest_file(directory / name) != digest
        ]

    @property
    def cpu_share(self) -> float | None:
        """The CPU time divided by the time of the cores that the run was given, in percent.

        A low share means that other processes used the cores, or that the run waited.
        """
        if self.usage is None or not self.usage["core_seconds"]:
            return None
        return 100 * self.usage["cpu_seconds"] / self.usage["core_seconds"]

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the data; None if it is unknown."""
        return self.inputs.get("data")

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in ENDED

    @property
    def epochs(self) -> int:
        """The number of epochs to train if nothing ends the run early."""
        trainer = self.config["trainer"]
        last: int | None = (trainer.get("early_stopping") or {}).get("epoch")
        epochs: int = trainer["epochs"]
        return epochs if last is None else min(epochs, last)


_ADAPTER = TypeAdapter(Record)
_ENCODER = json.JSONEncoder(sort_keys=True)


def digest_record(values: Mapping[str, Any]) -> str:
    """Return a digest of the content of `run.json` without its key `digest`."""
    content = _ENCODER.encode({name: values[name] for name in values if name != "digest"})
    return blake2b(content.encode(), digest_size=8).hexdigest()


def new_heartbeat(progress: Progress | None = None) -> Heartbeat:
    """Return a heartbeat of this process with the current time."""
    return Heartbeat(
        host=socket.gethostname(), process=os.getpid(), renewed=time.time(), **(progress or {})
    )


def is_fresh(heartbeat: Mapping[str, Any] | None) -> bool:
    """Return whether a heartbeat is so recent that its process counts as alive."""
    renewed = None if heartbeat is None else heartbeat.get("renewed")
    return isinstance(renewed, (int, float)) and abs(time.time() - renewed) < STALE_SECONDS


def duration(seconds: float) -> str:
    """Return a time span as readable text: 8.3 s, 4 min 05 s, 13 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
