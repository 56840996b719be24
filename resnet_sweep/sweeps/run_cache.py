"""Earlier runs: a sweep can reuse them, and they show how long runs take."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from statistics import median

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import code_file, format_setting, sign
from resnet_sweep.sweeps.job import Job


class RunCache:
    """The runs in some directories, which are read on first use."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = [root for root in roots if root.is_dir()]

    @classmethod
    def default(cls, *additional: Path) -> "RunCache":
        """Return the runs in `outputs/`, `multirun/` and additional directories."""
        return cls([*additional, Path("outputs"), Path("multirun")])

    @cached_property
    def runs(self) -> list[LoadedRun]:
        """All runs with valid records, newest first."""
        return [run for run in find_runs(self.roots) if isinstance(run, LoadedRun)]

    def find_complete(self, signature: str) -> LoadedRun | None:
        """Return the newest complete run with a signature; None if it is missing or was changed."""
        run = self._complete.get(signature)
        if run is None:
            return None
        record = run.record
        # Somebody may have changed the record or the metrics. So the signature is computed from the
        # config, and the digests of the metrics files are checked.
        actual = sign(record.config, record.precision, record.inputs)
        return run if actual == signature and not record.altered(run.directory) else None

    def find_with_other_code(self, planned: Record) -> LoadedRun | None:
        """Return the newest complete run that differs from a planned one only in its own code."""
        if not any(map(code_file, planned.inputs)):
            return None
        return self._complete_without_code.get(sign_without_code(planned))

    def estimate(self, jobs: Iterable[Job], further: Iterable[Record] = ()) -> float | None:
        """Estimate the seconds that jobs take one after another, from the median of similar runs.

        Args:
            jobs: jobs, of which a part may be trained already.
            further: records of other runs, which haven't started.

        Returns:
            The estimate; None if a run has no similar run.
        """
        total = 0.0
        work = [(job.planned, job.epochs_to_train) for job in jobs]
        for record, epochs in [*work, *((record, record.epochs) for record in further)]:
            times = self._epochs.get(_cost(record))
            if times is None:
                return None
            total += median(times) * epochs
        return total

    @cached_property
    def _complete(self) -> dict[str, LoadedRun]:
        return {run.record.signature: run for run in reversed(self.runs) if run.state in COMPLETE}

    @cached_property
    def _complete_without_code(self) -> dict[str, LoadedRun]:
        return {
            sign_without_code(run.record): run
            for run in reversed(self.runs)
            if run.state in COMPLETE
        }

    @cached_property
    def _epochs(self) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {}
        for run in self.runs:
            record = run.record
            if record.final and record.final["epoch"] and record.seconds:
                times.setdefault(_cost(record), []).append(record.seconds / record.final["epoch"])
        return times


def sign_without_code(record: Record) -> str:
    """Return the signature that a run would have without own code."""
    inputs = {name: digest for name, digest in record.inputs.items() if code_file(name) is None}
    return sign(record.config, record.precision, inputs)


def _cost(record: Record) -> str:
    """Return a key for runs whose epochs take equally long on the same machine."""
    trainer = record.config.get("trainer", {})
    parts = [record.config.get(group) for group in ("model", "data", "augmentation")]
    sizes = [trainer.get(name) for name in ("batch_size", "max_steps", "progressive_resizing")]
    return format_setting([*parts, *sizes, record.precision])
