"""Which parameters are tried next: Optuna's samplers."""

import functools
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import optuna
from hydra.utils import instantiate
from optuna.samplers import BaseSampler, GridSampler, QMCSampler

from resnet_sweep.errors import RequestError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.sweeps.study.space import Space

# As Hydra's Optuna sweeper has it.
WHITELIST = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")


class Sampling:
    """Makes the sampler of each trial.

    A sampler draws from random numbers that follow from its seed and the trial's number, not from
    what it drew before: workers with one seed don't draw the same, and a study that goes on doesn't
    begin anew.

    Args:
        node: `hydra.sweeper.sampler`.
        space: what is searched.

    Attributes:
        size: how many points a grid has; None of other samplers.

    Raises:
        RequestError: there is no such sampler.
    """

    def __init__(self, node: Mapping[str, Any], space: Space) -> None:
        self.node, self.space = node, space
        self._grid = node.get("_target_") == "optuna.samplers.GridSampler"
        self._values = {}
        if self._grid:
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

            try:
                self._values = {
                    key: list(OptunaSweeperImpl._to_grid_sampler_choices(each))
                    for key, each in space.distributions.items()
                }
            except ValueError as error:
                raise RequestError(
                    "hydra/sweeper/sampler=grid has no end of values in an interval: list them, "
                    "give a range with a step, or choose another sampler"
                ) from error
        self.size = prod(map(len, self._values.values())) if self._grid else None

    def sampler(self, number: int) -> BaseSampler:
        """That which draws the parameters of a trial.

        Raises:
            RequestError: it can't be made.
        """
        try:
            return self._make(self.node.get("seed"), number)
        # A sampler's settings come from a user, so whatever it makes of them is for the user.
        except Exception as error:
            raise RequestError(f"hydra.sweeper.sampler: {' '.join(str(error).split())}") from error

    def check(self, directions: Sequence[str]) -> None:
        """Draw a few parameters for nothing.

        Raises:
            RequestError: the sampler can't search this space, or in these directions.
        """
        study = optuna.create_study(directions=directions)
        try:
            # A grid that is tried out warns.
            for number in range(3 if self.size is None else 1):
                study.sampler = self.sampler(number)
                trial = study.ask(self.space.distributions)
                study._storage.set_trial_state_values(
                    trial._trial_id, optuna.trial.TrialState.COMPLETE, [0.0] * len(directions)
                )
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(
                f"hydra.sweeper.sampler: {self.node['_target_'].rpartition('.')[2]} can't search "
                f"this ({' '.join(str(error).split()).rstrip('.')}): choose another sampler"
            ) from error

    def _make(self, seed: int | None, number: int) -> BaseSampler:
        made = instantiate(self.node, _execution_whitelist_=WHITELIST, _convert_="all")
        if isinstance(made, functools.partial):
            made = made(self._values, seed=seed or 0)
        if isinstance(made, (GridSampler, QMCSampler)) or seed is None:
            return made
        own = derive_seed(seed, "sampler", number) % 2**32
        return instantiate({**self.node, "seed": own}, _execution_whitelist_=WHITELIST,
                           _convert_="all")  # fmt: skip
