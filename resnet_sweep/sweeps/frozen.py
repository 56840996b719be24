"""Jobs whose configs are settled before the first of them begins."""

import pickle
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence

from omegaconf import DictConfig

# Hydra's launchers hand each job a list of words and have its config composed of them when it
# begins, wherever that is. One word carries the whole config, already composed. Launchers print
# the words, but none that begins like this.
_PREFIX = "hydra.frozen="


def freeze(config: DictConfig) -> str:
    """The word that a config becomes."""
    return _PREFIX + b64encode(zlib.compress(pickle.dumps(config))).decode()


class FrozenConfigs:
    """Stands in for Hydra's config loader: what was frozen isn't composed again.

    Args:
        directory: of the sweep, which may have been claimed since.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: Sequence[str]
    ) -> DictConfig:
        """The config in the last of a job's words."""
        # The word was made by `freeze` in the process that launches the job, so that unpickling
        # it trusts nobody new: the launchers themselves pickle what they send.
        packed = b64decode(sweep_overrides[-1].removeprefix(_PREFIX))
        config = pickle.loads(zlib.decompress(packed))
        config.hydra.sweep.dir = self.directory
        return config
