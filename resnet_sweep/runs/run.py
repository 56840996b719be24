"""A run that a process is at work on: its directory, its record and its lease."""

import contextlib
import logging
import os
import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import remove_unfinished
from resnet_sweep.runs.lease import RENEWAL_SECONDS, Lease, in_use, lease_entry
from resnet_sweep.runs.metrics import Row, best_row, write_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import differences, relevant, typed
from resnet_sweep.runs.soundness import digest_file

log = logging.getLogger(__name__)

# What comes of a run, beside its record; a run that starts over removes it.
RESULTS = (
    "checkpoints",
    "evaluation",
    "features",
    "layers.csv",
    "metrics.csv",
    "mlflow_run_id",
    "plots",
    "tensorboard",
)
# Of these, those that hold figures of the epochs, which a checkpoint has, too.
FIGURES = ("layers.csv", "metrics.csv")


# What is written atomically.
_ATOMIC = (
    "run.json", "metrics.csv", "layers.csv", "mlflow_run_id", "checkpoints/*.pth", "plots/*.png"
)  # fmt: skip


class LeaseLostError(RuntimeError):
    """Another process took a run over, since this one gave no sign of life for too long."""


def claim_directory(directory: Path) -> Path:
    """Make a new directory that no other run has: `directory`, or with -2, -3 behind its name.

    Raises:
        RequestError: it can't be made.
    """
    candidate, number = directory, 1
    while True:
        try:
            candidate.parent.mkdir(parents=True, exist_ok=True)
            candidate.mkdir()
            return candidate
        except FileExistsError as error:
            if not candidate.exists():
                raise _unusable(candidate, error) from error
            number += 1
            candidate = directory.with_name(f"{directory.name}-{number}")
        except OSError as error:
            raise _unusable(candidate, error) from error


def foreign_file(directory: Path) -> str | None:
    """What keeps a directory without a record from being a run's: the name of a file; or None."""
    try:
        # A process that was killed, or broke down, at its very start leaves no more than these.
        return next(
            (
                path.name
                for path in sorted(directory.iterdir())
                if path.name not in ("run.lock", "train.log")
                and not path.name.startswith(".run.json-")
            ),
            None,
        )
    except NotADirectoryError:
        return directory.name
    except FileNotFoundError:
        return None


def make_directory(directory: Path) -> None:
    """Make a directory, unless it is there already.

    Raises:
        RequestError: it can't be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error


class Run:
    """A run directory that this process may write into, or one that has come to its end.

    Attributes:
        directory: absolute.
        record: what its `run.json` says.
        progress: where the training is, to be told with each renewal of the lease.
    """

    def __init__(self, directory: Path, record: Record, lease: Lease | None) -> None:
        self.directory = directory
        self.record = record
        self.progress: dict[str, float] = {}
        self._lease = lease
        self._changing = threading.RLock()
        self._closed = threading.Event()

    @classmethod
    def open(cls, directory: Path, record: Record) -> Self:
        """Begin a run, or go on with it where it was left.

        Nothing is written before all is found right.

        Args:
            directory: made if need be.
            record: of the run that is asked for.

        Raises:
            RequestError: the directory belongs to another run or to something else, is in use,
                or can't be written to.
        """
        directory = Path(os.path.abspath(directory))
        try:
            earlier = cls.earlier(directory, record)
            if earlier is not None and _is_done(directory, earlier):
                return cls(directory, earlier, lease=None)
            make_directory(directory)
            lease = Lease(directory, earlier and earlier.lease)
            try:
                # Once more, now that nobody else can change it.
                earlier = cls.earlier(directory, record)
                if earlier is not None and lease.contradicts(earlier.lease):
                    raise in_use(directory, earlier.lease)
                if earlier is not None and _is_done(directory, earlier):
                    lease.release()
                    return cls(directory, earlier, lease=None)
                remove_unfinished(directory, *_ATOMIC)
                if earlier is not None:
                    record.started = earlier.started
                    for name in ("best", "final", "gap", "seconds", "parameters"):
                        setattr(record, name, getattr(earlier, name))
                run = cls(directory, record, lease)
                run._begin()
                return run
            except BaseException:
                lease.release()
                raise
        except OSError as error:
            raise _unusable(directory, error) from error

    @staticmethod
    def earlier(directory: Path, record: Record) -> Record | None:
        """The record that a directory has already, if it is one of the same run.

        Raises:
            RequestError: it is one of another run, or the directory is something else's.
        """
        if not directory.exists():
            return None
        try:
            earlier = Record.read(directory)
        except FileNotFoundError:
            if (foreign := foreign_file(directory)) is not None:
                raise RequestError(
                    f"{directory} isn't a run directory and isn't empty (it holds {foreign}): "
                    "choose another hydra.run.dir"
                ) from None
            return None
        if earlier.signature != record.signature:
            raise RequestError(
                f"{directory} belongs to a run with another configuration "
                f"({_describe_difference(earlier, record)}): choose another hydra.run.dir, or "
                "repeat the settings of that run"
            )
        return earlier

    def _begin(self) -> None:
        self.record.state, self.record.reason, self.record.ended = "running", "", None
        self.record.started = self.record.started or now()
        self.record.lease = lease_entry()
        self.record.write(self.directory)
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        while not self._closed.wait(RENEWAL_SECONDS):
            # A disk that is full now may not be in 20 seconds, and the training thread will tell.
            with self._changing, contextlib.suppress(OSError, LeaseLostError):
                if not self._closed.is_set():
                    self.update(lease=lease_entry() | self.progress)

    def update(self, **changes: Any) -> None:
        """Change what the record says, on the disk too."""
        with self._changing:
            self.verify_lease()
            for name, value in changes.items():
                setattr(self.record, name, value)
            self.record.write(self.directory)

    def verify_lease(self) -> None:
        """See that this process still has the run to itself.

        Raises:
            LeaseLostError: another process took it over.
        """
        try:
            holder = Record.read(self.directory).lease
        except (FileNotFoundError, RequestError):
            # Nobody who took it over would leave it like that.
            return
        if holder is None:
            if self.record.lease is None:
                return
            raise LeaseLostError("another process took the run over, and has ended it")
        ours = lease_entry()
        if any(holder.get(name) != ours[name] for name in ("host", "process")):
            raise LeaseLostError(
                f"process {holder.get('process')} on {holder.get('host')} took the run over"
            )

    def write_metrics(self, rows: list[Row]) -> None:
        """Write `metrics.csv` and what the record says of it: the best and the last epoch."""
        write_metrics(self.directory, rows)
        best = best_row(rows)
        final = rows[-1] if rows else None
        self.update(
            best=_pick(best, "epoch", "val_acc", "val_loss"),
            final=_pick(final, "epoch", "train_acc", "train_loss", "val_acc", "val_loss"),
            gap=final and final["train_acc"] - final["val_acc"],
            seconds=sum(row["seconds"] for row in rows),
            digests={
                name: digest
                for name in FIGURES
                if (digest := digest_file(self.directory / name)) is not None
            },
            lease=lease_entry() | self.progress,
        )

    def close(self, state: str, reason: str = "") -> None:
        """End this process's work on the run.

        Raises:
            LeaseLostError: another process took it over.
        """
        try:
            with self._changing:
                self._closed.set()
                self.update(state=state, reason=reason, ended=now(), lease=None)
        finally:
            self._lease.release()


def bury(directory: Path, reason: str) -> None:
    """Have the record of a run whose process is gone say so: it failed.

    A run that has ended, or that another process has taken over, stays as it is.

    Args:
        directory: of the run; it may not have come to be one.
        reason: what became of the process.
    """
    with contextlib.suppress(OSError, RequestError):
        record = Record.read(directory)
        lease = Lease(directory, record.lease)
        try:
            record = Record.read(directory)
            if record.state == "running" and not lease.contradicts(record.lease):
                record.state, record.reason = "failed", reason
                record.ended, record.lease = now(), None
                record.write(directory)
        finally:
            lease.release()


def start_over(directory: Path, record: Record) -> None:
    """Have a run begin anew when it is opened: what came of it is removed.

    Args:
        directory: of the run; where there is none, nothing is done.
        record: of the run that is asked for.

    Raises:
        RequestError: the directory belongs to another run or to something else, is in use, or
            can't be written to; nothing in it was touched.
    """
    try:
        earlier = Run.earlier(directory, record)
        if earlier is None:
            return
        lease = Lease(directory, earlier.lease)
        try:
            if lease.contradicts(earlier.lease):
                raise in_use(directory, earlier.lease)
            # Before the results go, so that nobody takes it for one that has come to its end.
            replace(
                earlier, state="interrupted", reason="it is to start over", best=None, final=None,
                gap=None, seconds=0.0, started=None, ended=None, digests={}, lease=None,
            ).write(directory)  # fmt: skip
            _remove_results(directory)
        finally:
            lease.release()
    except OSError as error:
        raise _unusable(directory, error) from error


def now() -> str:
    """The time, ISO 8601, with its offset from UTC."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def _pick(row: Row | None, *names: str) -> dict[str, float] | None:
    return None if row is None else {name: row[name] for name in names}


def _describe_difference(earlier: Record, record: Record) -> str:
    """Where two runs differ, as `optim.lr: 0.1 there, 0.05 here`, the first few settings."""
    one, other = (
        relevant(each.config, each.precision or "", each.fingerprint or "")
        for each in (earlier, record)
    )
    apart = differences(one, other)
    if any(name.startswith("data.") for name in apart):
        # Other images follow from other settings.
        apart.pop("data", None)
    found = [
        f"{name}: {typed(there)} there, {typed(here)} here" for name, (there, here) in apart.items()
    ]
    if not found:
        return "made by another version of this program"
    return ", ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")


def _is_done(directory: Path, record: Record) -> bool:
    """Whether a run has ended and left its figures sound.

    One that was trained to its end goes on if they aren't: from its last checkpoint, with nothing
    left to train, it writes them anew.
    """
    if not record.ended_for_good:
        return False
    altered = record.altered(directory)
    if not altered or record.state not in ("finished", "stopped_early", "diverged"):
        return True
    log.warning(
        "warning: %s isn't what the run left there; it goes on from its last checkpoint, to write "
        "it anew", " and ".join(altered),
    )  # fmt: skip
    return False


def _remove_results(directory: Path) -> None:
    for name in RESULTS:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _unusable(directory: Path, error: OSError) -> RequestError:
    return RequestError(
        f"the directory {directory} can't be used ({error.strerror or error}): choose another with "
        "hydra.run.dir=DIRECTORY, or hydra.sweep.dir=DIRECTORY for a sweep"
    )
