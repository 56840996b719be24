"""The directories that hold a study."""

from pathlib import Path

SQLITE, JOURNAL = "study.db", "study.journal"


def study_directories(top: Path) -> list[Path]:
    """A directory and those just below it, as far as they hold a study's storage."""
    below = [top, *sorted(top.glob("*/")), *sorted(top.glob("*/*/"))]
    return [each for each in below if any((each / name).is_file() for name in (SQLITE, JOURNAL))]
