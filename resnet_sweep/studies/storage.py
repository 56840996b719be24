"""The storage of a study: a file in the sweep's directory, or a database."""

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs import lock
from resnet_sweep.studies import JOURNAL, SQLITE

# What Optuna raises when a storage can't be reached; a journal is a file.
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)
LOCK = ".study.lock"
# SQLite lets one process write at a time; the others wait, for this long at the most.
BUSY_SECONDS = 120
REACH_SECONDS = 10


def set_up_optuna() -> None:
    """Have Optuna print nothing but warnings, in this process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)


def is_shared(url: str | None) -> bool:
    """Return whether `hydra.sweeper.storage` is outside of the sweep's directory."""
    return url not in (None, "sqlite", "journal")


def open_storage(url: str | None, directory: Path) -> BaseStorage:
    """Open a storage, which is made if there is none.

    Args:
        url: of a database (`postgresql://...`), or `journal:///PATH`; `journal`, or `sqlite` or
            None, for a file in the sweep's directory.
        directory: of the sweep, which then must exist.

    Raises:
        ConfigError: it can't be reached.
    """
    url = _full_url(url, directory)
    try:
        if url.startswith("journal:"):
            return JournalStorage(JournalFileBackend(str(_file_of(url))))
        return RDBStorage(url, engine_kwargs=_engine_options(url))
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        advice = "start it, or choose another"
        if isinstance(error, ArgumentError):
            advice = "give a URL such as postgresql://USER@HOST/DATABASE, or journal:///FILE"
        elif isinstance(error, ImportError):
            advice = "install its driver: pip install 'psycopg[binary]' or pip install pymysql"
        reason = one_line(getattr(error, "orig", None) or error)
        raise ConfigError(
            f"hydra.sweeper.storage={_without_password(url)} can't be opened ({reason}): {advice}"
        ) from error


def find_storage(directory: Path) -> BaseStorage | None:
    """Return the storage in a sweep's directory; None if there is none, or it can't be read."""
    for name, url in ((SQLITE, "sqlite"), (JOURNAL, "journal")):
        if (directory / name).is_file():
            with contextlib.suppress(ConfigError):
                return open_storage(url, directory)
    return None


def find_study(url: str | None, directory: Path, name: str) -> Mapping[str, Any] | None:
    """Return the attributes of a study; None if there is none, in which case no file is made.

    Args:
        url, directory: see `open_storage`, which raises.
    """
    file = _file_of(_full_url(url, directory))
    if file is not None and not file.exists():
        return None
    studies = open_storage(url, directory).get_all_studies()
    return next((study.user_attrs for study in studies if study.study_name == name), None)


def exclusive(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context in which other workers that share a directory wait.

    Where the file system has no locks, they don't wait, so the storage alone keeps trials apart.
    """
    return lock.exclusive(directory / LOCK)


def _full_url(url: str | None, directory: Path) -> str:
    local = {
        "sqlite": f"sqlite:///{directory / SQLITE}",
        "journal": f"journal:///{directory / JOURNAL}",
    }
    url = url or "sqlite"
    return local.get(url, url)


def _file_of(url: str) -> Path | None:
    """Return the absolute path of a storage that is a file; a run may change the folder."""
    if url.startswith("journal:"):
        # As in other URLs, a fourth slash begins an absolute path.
        return Path(os.path.abspath(url.removeprefix("journal:").removeprefix("///")))
    with contextlib.suppress(ArgumentError):
        parts = make_url(url)
        if parts.get_backend_name() == "sqlite" and parts.database:
            return Path(os.path.abspath(parts.database))
    return None


def _engine_options(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    # A trial may take so long that the server has closed the connection meanwhile.
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": REACH_SECONDS}}


def _without_password(url: str) -> str:
    with contextlib.suppress(ArgumentError):
        return make_url(url).render_as_string()
    return url
