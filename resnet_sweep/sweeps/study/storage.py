"""Where a study is kept: a file in the sweep's directory, or a database."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from resnet_sweep.errors import RequestError
from resnet_sweep.sweeps.study.place import JOURNAL, SQLITE

LOCK = ".study.lock"
# SQLite lets one process write at a time; the others wait, for this long at the most.
BUSY_SECONDS = 120
REACH_SECONDS = 10


def is_shared(place: str | None) -> bool:
    """Whether a storage is elsewhere than in the sweep's directory, so that it tells where that is.

    Args:
        place: `hydra.sweeper.storage`.
    """
    return place not in (None, "sqlite", "journal")


def open_storage(place: str | None, directory: Path) -> BaseStorage:
    """Open a storage, made if need be.

    Args:
        place: a URL of a database (`postgresql://...`), `journal:///PATH`, or `journal` or None
            for a journal or an SQLite file in the sweep's directory.
        directory: of the sweep, which then must exist.

    Raises:
        RequestError: it can't be reached.
    """
    if place in (None, "sqlite"):
        place = f"sqlite:///{directory / SQLITE}"
    elif place == "journal":
        place = f"journal:///{directory / JOURNAL}"
    try:
        if place.startswith("journal:"):
            # As of other URLs, a fourth slash begins an absolute path.
            path = place.removeprefix("journal:").removeprefix("///")
            return JournalStorage(JournalFileBackend(path))
        return get_storage(RDBStorage(place, engine_kwargs=_engine(place)))
    except ArgumentError as error:
        raise RequestError(
            f"hydra.sweeper.storage={place} isn't the address of a storage: give a URL such as "
            "postgresql://USER@HOST/DATABASE, or journal:///FILE"
        ) from error
    except ImportError as error:
        raise RequestError(
            f"hydra.sweeper.storage={_told(place)} needs a driver that isn't installed ({error}): "
            "install it, as with pip install 'psycopg[binary]' or pip install pymysql"
        ) from error
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        cause = getattr(error, "orig", None) or error
        raise RequestError(
            f"hydra.sweeper.storage={_told(place)} can't be reached "
            f"({' '.join(str(cause).split()).rstrip('.')}): start it, or choose another"
        ) from error


def find_storage(directory: Path) -> BaseStorage | None:
    """The storage in a sweep's directory; None if there is none, or it can't be read."""
    for name, place in ((SQLITE, None), (JOURNAL, "journal")):
        if (directory / name).is_file():
            with contextlib.suppress(RequestError):
                return open_storage(place, directory)
    return None


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep the other workers that share a directory waiting for a moment."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # Where a file system has no locks, what must be right is so by the storage alone.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def vacate(directory: Path) -> None:
    """Remove a directory that was made for a study, if it has nothing else yet."""
    with contextlib.suppress(OSError):
        if [path.name for path in directory.iterdir()] == [LOCK]:
            (directory / LOCK).unlink()
            directory.rmdir()


def _engine(place: str) -> dict:
    name = make_url(place).get_backend_name()
    if name == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    # A trial may take so long that the server has hung up meanwhile.
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": REACH_SECONDS}}


def _told(place: str) -> str:
    """A URL without its password."""
    return place if place.startswith("journal:") else make_url(place).render_as_string()
