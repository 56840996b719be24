"""The storage of a study, a file in the sweep's directory or a database, and the study in it."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from resnet_sweep.compare.format import shown
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs import lock
from resnet_sweep.runs.signature import differences
from resnet_sweep.studies import JOURNAL, SQLITE
from resnet_sweep.studies.search_space import Direction, SearchSpace

# What Optuna raises when a storage can't be reached.
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError)
LOCK = ".study.lock"
# SQLite lets one process write at a time; the others wait, for this long at the most.
BUSY_SECONDS = 120
REACH_SECONDS = 10
# How long another worker may take to describe the study that it has just made.
PATIENCE_SECONDS = 5
# User attributes of a study: its fingerprint, the sweep's directory, and how many trials it began
# with that had an outcome.
FINGERPRINT, DIRECTORY, WARM = "resnet_sweep", "directory", "warm_started"
MOST_DIFFERENCES = 5


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
        url: of a database (`postgresql://...`), or `journal:///PATH`; `journal` or None for a
            journal or an SQLite file in the sweep's directory.
        directory: of the sweep, which then must exist.

    Raises:
        ConfigError: it can't be reached.
    """
    if url in (None, "sqlite"):
        url = f"sqlite:///{directory / SQLITE}"
    elif url == "journal":
        url = f"journal:///{directory / JOURNAL}"
    assert url is not None
    try:
        if url.startswith("journal:"):
            # As in other URLs, a fourth slash begins an absolute path.
            path = url.removeprefix("journal:").removeprefix("///")
            # Absolute, since a run may change the working directory.
            return JournalStorage(JournalFileBackend(os.path.abspath(path)))
        return RDBStorage(url, engine_kwargs=_engine_options(url))
    except ArgumentError as error:
        raise ConfigError(
            f"hydra.sweeper.storage={url} isn't the address of a storage: give a URL such as "
            "postgresql://USER@HOST/DATABASE, or journal:///FILE"
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"hydra.sweeper.storage={_without_password(url)} needs a driver that isn't installed "
            f"({error}): install it, as with pip install 'psycopg[binary]' or pip install pymysql"
        ) from error
    except (SQLAlchemyError, OSError, RuntimeError) as error:
        cause = getattr(error, "orig", None) or error
        raise ConfigError(
            f"hydra.sweeper.storage={_without_password(url)} can't be reached "
            f"({' '.join(str(cause).split()).rstrip('.')}): start it, or choose another"
        ) from error


def find_storage(directory: Path) -> BaseStorage | None:
    """Return the storage in a sweep's directory; None if there is none, or it can't be read."""
    for name, url in ((SQLITE, None), (JOURNAL, "journal")):
        if (directory / name).is_file():
            with contextlib.suppress(ConfigError):
                return open_storage(url, directory)
    return None


def exclusive(directory: Path) -> contextlib.AbstractContextManager[None]:
    """Return a context in which other workers that share a directory wait.

    Without locks of the file system, what has to be right is so by the storage alone.
    """
    return lock.exclusive(directory / LOCK)


def open_study(
    storage: BaseStorage,
    name: str,
    directions: Sequence[Direction],
    sampler: BaseSampler,
    pruner: BasePruner,
    fingerprint: Mapping[str, Any],
    directory: Path,
    fill: Callable[[optuna.Study], int],
) -> optuna.Study:
    """Make a study, or load the one that there is.

    Args:
        storage: where it is.
        name: of the study.
        directions: of its objectives.
        sampler, pruner: of its trials.
        fingerprint: what mustn't change while it is resumed; see `study_fingerprint`.
        directory: of its trials, if it is new.
        fill: adds the first trials to a new one; returns how many have an outcome already.

    Raises:
        ConfigError: the study that there is isn't the one that is asked for.
    """
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=list(directions),
            sampler=sampler,
            pruner=pruner,
        )
        new = True
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
        new = _is_abandoned(study)
    if new:
        study.set_metric_names(fingerprint["objective"])
        study.set_user_attr(DIRECTORY, str(directory))
        study.set_user_attr(WARM, fill(study))
        study.set_user_attr(FINGERPRINT, fingerprint)
    else:
        _check_fingerprint(study, directions, fingerprint)
    return study


def study_fingerprint(
    objectives: Sequence[str],
    whole: Mapping[str, Any],
    space: SearchSpace,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what must be the same whenever a study is resumed.

    Args:
        objectives: names of them.
        whole: the settings of the study as a whole.
        space: what is searched.
        settings: all that decides what a trial trains.
    """
    searched = {key.lstrip("+") for key in space.distributions}
    return {
        "objective": list(objectives),
        "reference": whole["reference"],
        "replicates": whole["replicates"],
        "space": {
            key: json.loads(distribution_to_json(values))
            for key, values in space.distributions.items()
        },
        "settings": {name: value for name, value in settings.items() if name not in searched},
    }


def _check_fingerprint(
    study: optuna.Study, directions: Sequence[str], asked: Mapping[str, Any]
) -> None:
    there = [direction.name.lower() for direction in study.directions]
    which = f"the study {shown(study.study_name)}"
    other = "choose another hydra.sweep.dir or hydra.sweeper.study_name"
    if there != list(directions):
        raise ConfigError(
            f"{which} is to {' and '.join(there)} and not to {' and '.join(directions)}: {other}"
        )
    found = study.user_attrs.get(FINGERPRINT)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{which} was made by another program: {other}")
    # As JSON has it, where lists and tuples are the same.
    asked = json.loads(json.dumps(asked))
    for name, what in (("space", "searches another space"), ("settings", "has other settings")):
        found_there = [
            f"{shown(key)}: {_shown(one)} there, {_shown(another)} here"
            for key, (one, another) in differences(found.get(name, {}), asked[name]).items()
        ]
        if found_there:
            listed = "; ".join(found_there[:MOST_DIFFERENCES])
            raise ConfigError(f"{which} {what} ({listed}): {other}")
    for name in ("objective", "reference", "replicates"):
        if found.get(name) != asked[name]:
            raise ConfigError(
                f"{which} has {name}={_shown(found.get(name))} and not {_shown(asked[name])}: "
                f"{other}"
            )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and isinstance(value.get("attributes"), Mapping):
        inner = value["attributes"]
        if "choices" in inner:
            return shown(inner["choices"])
        log = " by its logarithm" if inner.get("log") else ""
        return f"{shown(inner.get('low'))} to {shown(inner.get('high'))}{log}"
    return "nothing" if value is None else shown(value)


def _is_abandoned(study: optuna.Study) -> bool:
    """Return whether the process that made a study was gone before it had described it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while FINGERPRINT not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False


def _engine_options(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    # A trial may take so long that the server has closed the connection meanwhile.
    return {"pool_pre_ping": True, "connect_args": {"connect_timeout": REACH_SECONDS}}


def _without_password(url: str) -> str:
    return url if url.startswith("journal:") else make_url(url).render_as_string()
