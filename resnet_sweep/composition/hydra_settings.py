"""Whether Hydra's own settings keep a run in its directory."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.errors import RequestError

# Bytes, so that a suffix fits behind it.
LONGEST_NAME = 200
OUTPUT = "${hydra.runtime.output_dir}/"


def check_hydra(hydra: DictConfig) -> None:
    """Refuse settings by which a file would land outside of the run directory, or of which Hydra
    itself makes nothing.

    Raises:
        RequestError: of the first such one.
    """
    # Unresolved, since the number of a job isn't known before it begins.
    settings = OmegaConf.to_container(hydra, resolve=False)
    _check_parts(settings)
    name = hydra.job.name
    fits = isinstance(name, str) and name.isprintable() and len(name.encode()) <= LONGEST_NAME
    if not fits or name != Path(name).name:
        raise RequestError(
            f"hydra.job.name={name} can't be the name of a log file: choose a shorter one without /"
        )
    for path, value in (
        ("hydra.output_subdir", settings.get("output_subdir")),
        ("hydra.sweep.subdir", settings["sweep"].get("subdir")),
    ):
        outside = Path(str(value)).is_absolute() or ".." in Path(str(value)).parts
        # Where an interpolation leads is known of a job's directory alone, before it begins.
        unknown = path == "hydra.output_subdir" and "${" in str(value)
        if value is not None and (outside or unknown):
            raise RequestError(
                f"{path}={value} leads out of the run directory: choose one inside of it"
            )
    for part in ("run", "sweep"):
        directory = settings[part].get("dir")
        if "\0" in str(directory):
            raise RequestError(
                f"hydra.{part}.dir={directory} can't be the name of a directory: choose another"
            )
    for path, value in _log_files(settings):
        inside = str(value).startswith(OUTPUT) and ".." not in Path(str(value)).parts
        if not inside or not str(value).isprintable():
            raise RequestError(
                f"{path}={value} leads out of the run directory: begin it with {OUTPUT}"
            )
    try:
        chdir = hydra.job.chdir
    except OmegaConfBaseException as error:
        raise RequestError(
            f"hydra.job.chdir={settings['job']['chdir']} must be true or false"
        ) from error
    if chdir not in (True, False, None):
        raise RequestError(f"hydra.job.chdir={chdir} must be true or false")


def _check_parts(settings: Mapping[str, Any]) -> None:
    for part in ("launcher", "sweeper"):
        if not isinstance(settings[part], Mapping):
            raise RequestError(
                f"hydra.{part}={settings[part]} is no {part}: choose one with hydra/{part}=NAME"
            )
    words = [*_listed(settings["overrides"], "task"), *_listed(settings["overrides"], "hydra")]
    typed = [word for word in words if word.lstrip("+~").startswith("hydra.overrides")]
    if typed:
        raise RequestError(f"{typed[0]} would change what was typed: leave it out")


def _listed(overrides: Any, name: str) -> list[str]:
    words = overrides.get(name) if isinstance(overrides, Mapping) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RequestError(f"hydra.overrides.{name} would change what was typed: leave it out")
    return words


def _log_files(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part in ("job_logging", "hydra_logging"):
        node = settings[part]
        handlers = node.get("handlers") if isinstance(node, Mapping) else None
        for name, handler in handlers.items() if isinstance(handlers, Mapping) else ():
            if isinstance(handler, Mapping) and "filename" in handler:
                yield f"hydra.{part}.handlers.{name}.filename", handler["filename"]
