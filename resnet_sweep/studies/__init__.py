"""Studies: searches with Optuna by any number of workers (`hydra/sweeper=optuna`)."""

from pathlib import Path

# File names of a study's storage in the sweep directory.
SQLITE, JOURNAL = "study.db", "study.journal"
# The file in the sweep directory that contains the result of the confirmation.
CONFIRMATION_CSV = "confirmation.csv"


def study_directories(top: Path) -> list[Path]:
    """Return the directories with a study's storage, in `top` or at most two levels below."""
    return [
        directory
        for directory in (top, *sorted(top.glob("*/")), *sorted(top.glob("*/*/")))
        if any((directory / name).is_file() for name in (SQLITE, JOURNAL))
    ]
