"""What a sweep directory says of its sweep: `sweep.json`."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_sweep.compare.collection import find_runs, read_choices
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.signature import flatten
from resnet_sweep.sweeps.job import WAITING, Job

NAME = "sweep.json"


@dataclass(frozen=True)
class Line:
    """A job as `sweep.json` has it.

    Attributes:
        number, signature, overrides, state, reason, reused: as of a `Job`.
        directory: absolute.
        settings: flat.
        choices: that were made in each config group, of a reused job.
    """

    number: int
    signature: str
    overrides: Sequence[str]
    directory: Path
    state: str = WAITING
    reason: str = ""
    reused: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether the sweep has a run of it."""
        return not self.reused and (self.directory / "run.json").exists()


@dataclass(frozen=True)
class Ledger:
    """What a sweep directory says.

    Attributes:
        lines: the jobs.
        lease: of the process that is at work on the sweep, or was.
    """

    lines: Sequence[Line] = ()
    lease: Mapping[str, Any] | None = None

    @property
    def identities(self) -> set[tuple[int, str]]:
        """Numbers and signatures of the jobs."""
        return {(line.number, line.signature) for line in self.lines}

    def check_unchanged(self, now: "Ledger", directory: Path) -> None:
        """See that a sweep's directory still says what a plan was made by.

        Raises:
            RequestError: it says something else.
        """
        if now.identities != self.identities:
            raise RequestError(
                f"{directory} was changed by another process while the jobs were composed: give "
                "the command again"
            )

    @property
    def next_number(self) -> int:
        """The first that no job has or had."""
        return 1 + max((line.number for line in self.lines), default=-1)

    @classmethod
    def read(cls, directory: Path) -> "Ledger":
        """The ledger of a sweep directory; one without jobs if there is none.

        Raises:
            RequestError: the directory is something else.
        """
        try:
            content = json.loads((directory / NAME).read_text(encoding="utf-8"))
            common = content["definition"]["settings"]
            lines = [_line(entry, common, directory) for entry in content["jobs"]]
            lease = content.get("lease")
            if lease is not None and not isinstance(lease, dict):
                raise TypeError("lease isn't a mapping")
            return cls(lines, lease)
        except (FileNotFoundError, NotADirectoryError):
            if (directory / "run.json").exists():
                raise RequestError(
                    f"{directory} is the directory of a run, not of a sweep: choose another "
                    "hydra.sweep.dir"
                ) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
            # All that it says stands in the directories of the jobs as well.
            pass
        return cls(_found(directory))


def split_settings(jobs: Sequence[Job]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings that all jobs have in common, and for each job the others, flat."""
    flat = [dict(flatten(job.planned.config)) for job in jobs]
    common = {
        name: value
        for name, value in flat[0].items()
        if all(name in each and each[name] == value for each in flat)
    }
    return common, [{name: each[name] for name in each if name not in common} for each in flat]


def write(
    directory: Path,
    jobs: Sequence[Job],
    settings: Sequence[Mapping[str, Any]],
    values: Sequence[float | None],
    definition: Mapping[str, Any],
    lease: Mapping[str, Any] | None,
) -> None:
    """Write `sweep.json`.

    Args:
        directory: of the sweep.
        jobs: of the sweep.
        settings: of each job, those that they don't have in common.
        values: of each job, of what they are judged by.
        definition: what there is to say of the sweep as a whole.
        lease: of this process.
    """
    lines = [
        {
            "number": job.number,
            "overrides": job.planned.overrides,
            "signature": job.planned.signature,
            "directory": os.path.relpath(job.directory, directory),
            "reused": job.reused,
            "state": job.state,
            "value": value,
            "reason": job.reason,
            "settings": own,
            # The run itself may have been composed by others.
            **({"choices": job.planned.choices} if job.reused else {}),
        }
        for job, own, value in zip(jobs, settings, values, strict=True)
    ]
    text = json.dumps({"definition": definition, "jobs": lines, "lease": lease}, indent=1)
    write_atomically(directory / NAME, text.encode() + b"\n")


def _line(entry: Mapping[str, Any], common: Mapping[str, Any], top: Path) -> Line:
    texts = (entry["signature"], entry["directory"], entry["state"], entry["reason"])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    return Line(
        number=int(entry["number"]),
        signature=entry["signature"],
        overrides=[str(word) for word in entry["overrides"]],
        directory=Path(os.path.abspath(top / entry["directory"])),
        state=entry["state"],
        reason=entry["reason"],
        reused=bool(entry["reused"]),
        settings={**common, **entry["settings"]},
        choices=read_choices(entry),
    )


def _found(directory: Path) -> list[Line]:
    """The jobs whose runs are in a directory, for want of a ledger."""
    if not directory.is_dir():
        return []
    lines = []
    for entry in find_runs([directory]):
        name = entry.directory.relative_to(directory).parts[0]
        if entry.record is not None and name.isdecimal():
            lines.append(
                Line(
                    number=int(name),
                    signature=entry.record.signature,
                    overrides=entry.record.overrides,
                    directory=Path(os.path.abspath(entry.directory)),
                    settings=dict(flatten(entry.record.config)),
                )
            )
    return lines
