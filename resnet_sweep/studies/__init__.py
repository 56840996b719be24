"""Studies: searches with Optuna, shared by any number of workers (`hydra/sweeper=optuna`)."""

from pathlib import Path

# The names of the storages that a study may have in the sweep's directory.
SQLITE, JOURNAL = "study.db", "study.journal"


def study_directories(top: Path) -> list[Path]:
    """Return a directory and those up to two levels below it that hold a study's storage."""
    return [
        directory
        for directory in (top, *sorted(top.glob("*/")), *sorted(top.glob("*/*/")))
        if any((directory / name).is_file() for name in (SQLITE, JOURNAL))
    ]
