"""Whether Hydra's own settings keep a run in its directory."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.errors import RequestError

# Bytes, so that a suffix fits behind it.
LONGEST_NAME = 200


def check_hydra(hydra: DictConfig) -> None:
    """Refuse settings by which a file would land outside of the run directory.

    Raises:
        RequestError: of the first such one.
    """
    # Unresolved, since the number of a job isn't known before it begins.
    settings = OmegaConf.to_container(hydra, resolve=False)
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
        if value is not None and (Path(str(value)).is_absolute() or ".." in Path(str(value)).parts):
            raise RequestError(
                f"{path}={value} leads out of the run directory: choose one inside of it"
            )
    try:
        chdir = hydra.job.chdir
    except OmegaConfBaseException as error:
        raise RequestError(
            f"hydra.job.chdir={settings['job']['chdir']} must be true or false"
        ) from error
    if chdir not in (True, False, None):
        raise RequestError(f"hydra.job.chdir={chdir} must be true or false")
