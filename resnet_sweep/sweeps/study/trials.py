"""The trials of a study, and which of them is next."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from resnet_sweep.errors import RequestError
from resnet_sweep.sweeps.study.claim import Claim
from resnet_sweep.sweeps.study.sampling import Sampling
from resnet_sweep.sweeps.study.storage import exclusive

# Of a trial in its storage: which training it is, the trial that trains the same, what came of the
# run in our own words, why, where its run is, and where others of its replicates were found.
SIGNATURE, SAME_AS, STATE, REASON = "signature", "same_as", "state", "reason"
PLACE, FOUND = "directory", "found"


class Trials:
    """The trials of a study, numbered from 0.

    Each is laid down as waiting before any worker takes it, since of all that a storage does only
    taking a waiting trial is left to one worker alone, whatever the storage.

    Args:
        study: of Optuna's.
        directory: of the sweep.
        total: how many trials there are to be.
        sampling: draws their parameters.
    """

    def __init__(
        self, study: optuna.Study, directory: Path, total: int, sampling: Sampling
    ) -> None:
        self.study, self.directory, self.total = study, directory, total
        self.sampling = sampling

    def listed(self) -> list[FrozenTrial]:
        """All trials but those that no worker will take, by number."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < self.total or trial.state is not TrialState.WAITING
        ]

    @property
    def over(self) -> bool:
        """Whether all trials have ended."""
        ended = [trial for trial in self.listed() if trial.state.is_finished()]
        return len(ended) >= self.total

    @property
    def failures(self) -> int:
        """How many trials failed."""
        return sum(trial.state is TrialState.FAIL for trial in self.listed())

    def take(self) -> Claim | None:
        """The next trial to work on: one that lost its worker, or one that waits.

        Returns:
            None if there is none at the moment.
        """
        trials = self.listed()
        for state in (TrialState.RUNNING, TrialState.WAITING):
            for trial in trials:
                if trial.state is state and trial.number < self.total and not self._settle(trial):
                    with contextlib.suppress(RequestError, UpdateFinishedTrialError):
                        return Claim(self.study._storage, trial, self.directory)
        with exclusive(self.directory):
            if len(self.study.get_trials(deepcopy=False)) >= self.total:
                return None
            self.study.add_trial(create_trial(state=TrialState.WAITING))
        return self.take()

    def sample(self, claim: Claim) -> Trial:
        """A claimed trial, with parameters."""
        self.study.sampler = self.sampling.sampler(claim.number)
        # As `ask` does it; what was drawn by a worker that is gone stays.
        trial = Trial(self.study, claim.id)
        for key, distribution in self.sampling.space.distributions.items():
            trial._suggest(key, distribution)
        return trial

    def is_same(self, trial: Trial, signature: str) -> bool:
        """Whether another trial trains the very same, or has; this one then has its outcome."""
        with exclusive(self.directory):
            for other in self.listed():
                if other.number == trial.number or other.state is TrialState.FAIL:
                    continue
                attributes = other.user_attrs
                if attributes.get(SIGNATURE) == signature and attributes.get(SAME_AS) is None:
                    # Two that began at once, where there are no locks: the first trains.
                    if SIGNATURE in trial.user_attrs and trial.number < other.number:
                        continue
                    trial.set_user_attr(SAME_AS, other.number)
                    return True
            trial.set_user_attr(SIGNATURE, signature)
            if SAME_AS in trial.user_attrs:
                # The one that was to train it has failed.
                trial.set_user_attr(SAME_AS, None)
        return False

    def tell(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Say what came of a trial; what another worker has said already stays."""
        try:
            self.study.tell(trial, values, state)
        except (UpdateFinishedTrialError, ValueError):
            if not self.study._storage.get_trial(trial._trial_id).state.is_finished():
                raise
        except RuntimeError as error:
            # A grid that is tried out asks for an end, which is for Optuna's own loop.
            if "Study.stop" not in str(error):
                raise

    def _settle(self, trial: FrozenTrial) -> bool:
        """See to a trial that another one trains; returns whether it is such a one."""
        number = trial.user_attrs.get(SAME_AS)
        if number is None:
            return False
        other = next(each for each in self.listed() if each.number == number)
        if other.state is TrialState.FAIL:
            return False
        if other.state.is_finished():
            storage = self.study._storage
            with contextlib.suppress(UpdateFinishedTrialError):
                theirs = {PLACE: str(other.number), **other.user_attrs}
                for name in (STATE, REASON, PLACE, FOUND):
                    if name in theirs:
                        storage.set_trial_user_attr(trial._trial_id, name, theirs[name])
                for step, value in other.intermediate_values.items():
                    if step not in trial.intermediate_values:
                        storage.set_trial_intermediate_value(trial._trial_id, step, value)
                storage.set_trial_state_values(trial._trial_id, other.state, other.values)
        return True
