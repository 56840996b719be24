"""What is to be done around the sweeps of Hydra's own sweepers, and after any job."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_sweep.composition.complaint import sentence
from resnet_sweep.composition.gate import Refusing, is_ours


class SweepCallback(Callback):
    """Hydra's callback: our own sweepers see to their sweeps themselves, others are helped here."""

    # Told of each job of a sweep that has ended in this process: its directory and its error.
    on_ended: ClassVar[Callable[[Path, Exception | None], None] | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a sweep."""
        if not is_ours(config):
            from resnet_sweep.sweeps import stock

            with Refusing():
                stock.begin(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a sweep, whatever ended it."""
        error = sys.exc_info()[1]
        if is_ours(config) or (error is not None and not isinstance(error, Exception)):
            return
        from resnet_sweep.sweeps import stock

        failed = stock.end(config)
        if error is not None:
            print(f"error: the sweep broke off: {sentence(error)}", file=sys.stderr)
        if failed or error is not None:
            raise SystemExit(1)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Of a single run, or of a job of a sweep."""
        failed = job_return.status is JobStatus.FAILED
        if config.hydra.mode == RunMode.MULTIRUN and is_ours(config):
            # Hydra keeps what each job returns until the last has ended, with its whole config.
            job_return.cfg = job_return.hydra_cfg = None
        error = job_return._return_value if failed else None
        if config.hydra.mode == RunMode.MULTIRUN:
            _empty_frames(error)
        if SweepCallback.on_ended is not None:
            SweepCallback.on_ended(Path(config.hydra.runtime.output_dir), error)
        elif config.hydra.mode == RunMode.MULTIRUN and not is_ours(config):
            from resnet_sweep.sweeps import stock

            stock.note(config, error)


def _empty_frames(error: BaseException | None) -> None:
    """Free what an error that is kept would keep: a network and its batch, in a device's memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
