"""The storage of a study: a file in the sweep directory, or a database."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs import lock
from resnet_sweep.studies import JOURNAL, SQLITE

# Optuna raises these errors if a storage can't be reached; OSError is for a journal file.
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)
LOCK = ".study.lock"
# SQLite lets one process write at a time. The others wait at most this long.
BUSY_TIMEOUT_SECONDS = 120
CONNECT_TIMEOUT_SECONDS = 10


def set_up_optuna() -> None:
    """Let Optuna print only warnings and errors in this process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)


def is_shared(url: str | None) -> bool:
    """Return whether `hydra.sweeper.storage` is outside the sweep directory."""
    return url not in (None, "sqlite", "journal")


def open_storage(url: str | None, directory: Path) -> BaseStorage:
    """Open a storage, and create it if it doesn't exist.

    Args:
        url: the URL of a database (`postgresql://...`) or of a journal file (`journal:///PATH`).
            `journal` and `sqlite` are files in the sweep directory; None is the same as `sqlite`.
        directory: the sweep directory. It must exist if the storage is a file in it.

    Raises:
        ConfigError: the storage can't be reached.
    """
    url = _full_url(url, directory)
    with _explain_errors(url):
        if url.startswith("journal:"):
            return JournalStorage(JournalFileBackend(str(_file_of(url))))
        return RDBStorage(url, engine_kwargs=_engine_options(url))


def check_storage(url: str | None, directory: Path) -> None:
    """Check that a storage outside the sweep directory can be reached; nothing is written.

    Args:
        url, directory: see `open_storage`.

    Raises:
        ConfigError: the storage can't be reached.
    """
    if not is_shared(url):
        return
    url = _full_url(url, directory)
    with _explain_errors(url):
        if (file := _file_of(url)) is None:
            create_engine(url, **_engine_options(url)).connect().close()
        elif not file.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {file.parent}")


@contextlib.contextmanager
def _explain_errors(url: str) -> Iterator[None]:
    """Raise errors of a `with` block that opens a storage as ConfigError with advice."""
    try:
        yield
    except (SQLAlchemyError, ImportError, OSError, RuntimeError) as error:
        advice = "start the server, or choose another storage"
        if _file_of(url) is not None:
            advice = "create its folder and make it writable, or choose another storage"
        if isinstance(error, ArgumentError):
            advice = "give a URL such as postgresql://USER@HOST/DATABASE, or journal:///FILE"
        elif isinstance(error, ImportError):
            advice = "install its driver: pip install 'psycopg[binary]' or pip install pymysql"
        reason = one_line(getattr(error, "orig", None) or error)
        raise ConfigError(
            f"hydra.sweeper.storage={_without_password(url)} can't be opened ({reason}): {advice}"
        ) from error


def find_storage(directory: Path) -> BaseStorage | None:
    """Return the storage in a sweep directory; None if there is none or it can't be read."""
    for name, url in ((SQLITE, "sqlite"), (JOURNAL, "journal")):
        if (directory / name).is_file():
            with contextlib.suppress(ConfigError):
                return open_storage(url, directory)
    return None


def find_study(url: str | None, directory: Path, name: str) -> Mapping[str, Any] | None:
    """Return the user attributes of a study; None if it doesn't exist. No file is created.

    Args:
        url, directory: see `open_storage`.

    Raises:
        ConfigError: the storage can't be reached.
    """
    file = _file_of(_full_url(url, directory))
    if file is not None and not file.exists():
        return None
    studies = open_storage(url, directory).get_all_studies()
    return next((study.user_attrs for study in studies if study.study_name == name), None)


def exclusive(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context manager that makes other workers in the same directory wait.

    On a file system without locks, they don't wait. Then the storage alone keeps two workers from
    taking the same trial.
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
    """Return the path of a storage file; None for a server.

    The path is absolute, because the current folder may change.
    """
    if url.startswith("journal:"):
        # An absolute path begins with the fourth slash, as in other URLs.
        return Path(os.path.abspath(url.removeprefix("journal:").removeprefix("///")))
    with contextlib.suppress(ArgumentError):
        parts = make_url(url)
        if parts.get_backend_name() == "sqlite" and parts.database:
            return Path(os.path.abspath(parts.database))
    return None


def _engine_options(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_SECONDS}}
    # The server may close the connection during a long trial.
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_TIMEOUT_SECONDS}}


def _without_password(url: str) -> str:
    with contextlib.suppress(ArgumentError):
        return make_url(url).render_as_string()
    return url
