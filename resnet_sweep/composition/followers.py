"""The processes of a run beside rank 0, and how rank 0 has them take part in it.

Rank 0 alone composes the command, checks it and has the run directory. The others, its followers,
wait for the config and for the beginning, train along, and write nothing.
"""

import sys
import traceback
from collections.abc import Mapping
from typing import Any

from resnet_sweep.composition.prepare import Prepared, prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.training.device import configure
from resnet_sweep.training.interruption import Interrupted, StopRequest, exit_status
from resnet_sweep.training.loop import Diverged
from resnet_sweep.training.ranks import Ranks

# How far rank 0 has come with its followers.
_joined, _begun = False, False


def call(config: Mapping[str, Any]) -> None:
    """Give the followers the config of a run, for them to prepare it as well.

    Raises:
        RequestError: one of them can't.
    """
    global _joined
    ranks = Ranks.here()
    ranks.join()
    _joined = True
    ranks.broadcast(config)
    for rank, complaint in enumerate(ranks.gather(None)):
        if complaint is not None:
            raise RequestError(f"process {rank} of {ranks.size} can't take part: {complaint}")


def begin() -> None:
    """Have the followers train."""
    global _begun
    Ranks.here().broadcast(True)
    _begun = True


def part() -> None:
    """Let the followers go, who may be waiting for a run that isn't to begin."""
    ranks = Ranks.here()
    if not _begun:
        if not _joined:
            ranks.join()
        ranks.broadcast(None)
    ranks.leave()


def follow() -> int:
    """Take part in what rank 0 carries out; returns the exit status."""
    ranks = Ranks.here()
    ranks.join()
    config = ranks.broadcast()
    if config is None:
        return 0
    stop = StopRequest(patient=True).listen()
    prepared, complaint = None, None
    try:
        prepared = prepare(config, ranks)
    except RequestError as error:
        complaint = str(error)
    ranks.gather(complaint)
    if not ranks.broadcast():
        return 0
    try:
        return _train(prepared, stop)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
        ranks.leave()


def _train(prepared: Prepared, stop: StopRequest) -> int:
    configure(prepared.device, prepared.precision, prepared.settings.threads)
    try:
        prepared.training().fit(None, (), stop)
    except Interrupted as interruption:
        return exit_status(interruption.signal)
    except Diverged:
        return 1
    return 0
