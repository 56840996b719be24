"""Runs that get signals to stop, as from a scheduler or a user."""

import random
import shutil
import signal
import time
from pathlib import Path

from faults import child, recipes
from faults.results import difference, results
from faults.tally import Tally
from resnet_sweep.runs.record import Record
from resnet_sweep.training import trainer

STATUS = {signal.SIGTERM: 75, signal.SIGHUP: 75, signal.SIGUSR2: 75, signal.SIGINT: 130}
# Schedulers send SIGKILL this long after SIGTERM.
NOTICE_SECONDS = 30


def signals(count: int, seed: int, folder: Path) -> Tally:
    """Send one to three signals to each of `count` runs at random moments, and resume the run."""
    tally = Tally("a run gets one to three signals to stop (SIGTERM, SIGHUP, SIGUSR2, Ctrl-C)")
    rng = random.Random(seed)
    arguments = (*recipes.SMALL, "augmentation=cutmix", "trainer.epochs=8", "hydra.run.dir=run")
    undisturbed = child.run(folder / "undisturbed", *arguments)
    expected = results(folder / "undisturbed" / "run")
    for number in range(count):
        trial = folder / f"{number}"
        sent = [rng.choice(list(STATUS)) for _ in range(rng.choice([1, 1, 2, 3]))]
        process = child.Child(
            trial, *arguments, fault=lambda: setattr(trainer, "CHECKPOINT_SECONDS", 0.05)
        )
        time.sleep(rng.uniform(0.1, undisturbed.seconds))
        for signal_number in sent:
            process.send(signal_number)
            time.sleep(rng.choice([0.0, 0.01, 0.05]))
        sent_time = time.monotonic()
        stopped = process.wait()
        names = ", ".join(signal_number.name for signal_number in sent)
        description = f"{names} (seed {seed}, trial {number}): status {stopped.status}"
        failure = None
        if "Traceback" in stopped.output or time.monotonic() - sent_time > NOTICE_SECONDS:
            failure = f"{description}\n{stopped.output}"
        elif stopped.status in STATUS.values() and (trial / "run" / "run.json").exists():
            record = Record.read(trial / "run")
            # A second Ctrl-C ends the process at once, so its record still says "running".
            at_once = len(sent) > 1 and signal.SIGINT in sent[1:] and record.state == "running"
            if not at_once and (record.state != "interrupted" or record.heartbeat is not None):
                failure = f"{description}, but the state is {record.state}"
        elif stopped.status not in (0, 130, *(-signal_number for signal_number in STATUS)):
            # A signal before the start of the run, or after its end, ends the process.
            failure = f"{description}\n{stopped.output}"
        resumed = child.run(trial, *arguments)
        if failure is None and resumed.status != 0:
            failure = f"{description}, then status {resumed.status}\n{resumed.output}"
        if failure is None and (found := difference(trial / "run", expected)):
            failure = f"{description}: {found}"
        if stopped.status in STATUS.values():
            outcome = "saved its state and resumed with bit-identical results"
        else:
            outcome = "had no state to save and started again with bit-identical results"
        tally.add(outcome, failure)
        shutil.rmtree(trial)
    return tally
