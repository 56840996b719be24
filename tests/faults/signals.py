"""Runs that are asked to stop, as a scheduler or a user does, once or several times."""

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
# What a scheduler grants between SIGTERM and SIGKILL.
NOTICE_SECONDS = 30


def signals(count: int, seed: int, folder: Path) -> Tally:
    """Send so many runs one to three signals at random moments, and let each go on."""
    tally = Tally(
        "a run is asked to stop (SIGTERM, SIGHUP, SIGUSR2, Ctrl-C), up to three times in a row"
    )
    chance = random.Random(seed)
    words = (*recipes.SMALL, "augmentation=cutmix", "trainer.epochs=8", "hydra.run.dir=run")
    ended = child.run(folder / "calm", *words)
    expected, seconds = results(folder / "calm" / "run"), ended.seconds
    for number in range(count):
        place = folder / f"{number}"
        sent = [chance.choice(list(STATUS)) for _ in range(chance.choice([1, 1, 2, 3]))]
        process = child.Child(
            place, *words, fault=lambda: setattr(trainer, "CHECKPOINT_SECONDS", 0.05)
        )
        time.sleep(chance.uniform(0.1, seconds))
        for one in sent:
            process.send(one)
            time.sleep(chance.choice([0.0, 0.01, 0.05]))
        asked = time.monotonic()
        stopped = process.wait()
        names = ", ".join(one.name for one in sent)
        told = f"{names} (seed {seed}, trial {number}): status {stopped.status}"
        wrong = None
        if "Traceback" in stopped.output or time.monotonic() - asked > NOTICE_SECONDS:
            wrong = f"{told}\n{stopped.output}"
        elif stopped.status in STATUS.values() and (place / "run" / "run.json").exists():
            record = Record.read(place / "run")
            # A second Ctrl-C ends it at once, as a kill would.
            at_once = len(sent) > 1 and signal.SIGINT in sent[1:] and record.state == "running"
            if not at_once and (record.state != "interrupted" or record.heartbeat is not None):
                wrong = f"{told}, but {record.state}"
        elif stopped.status not in (0, 130, *(-one for one in STATUS)):
            # One that comes before the run, or behind its end, just ends the process.
            wrong = f"{told}\n{stopped.output}"
        again = child.run(place, *words)
        if wrong is None and again.status != 0:
            wrong = f"{told}, and then {again.status}\n{again.output}"
        if wrong is None and (found := difference(place / "run", expected)):
            wrong = f"{told}: {found}"
        kept = "saved its state" if stopped.status in STATUS.values() else "had none to save"
        tally.add(f"{kept}, and went on to the same bits", wrong)
        shutil.rmtree(place)
    return tally
