"""Jobs of a scheduler that submitit starts, announces the end to, and queues again."""

import json
import os
import signal
import time
from pathlib import Path

from small_sweep import TINY, assert_same_runs, finish, ledger, leftovers, start

from resnet_sweep.runs.metrics import read_metrics

SWEEP = (
    "--multirun", *TINY, "trainer.epochs=16", "data.limit_train=300", "hydra.sweep.dir=sweep",
    "seed=0,1",
)  # fmt: skip


def test_a_job_that_is_preempted_saves_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    calm = start(tmp_path, *SWEEP, "hydra.sweep.dir=calm")
    said = finish(calm)
    assert calm.returncode == 0, said
    sweep = tmp_path / "sweep"
    process = start(tmp_path, *SWEEP, "hydra/launcher=submitit_local")
    preempted: list[int] = []
    while process.poll() is None and len(preempted) < 2:
        time.sleep(0.02)
        try:
            lease = json.loads((sweep / "1" / "run.json").read_text())["lease"]
            epochs = len(read_metrics(sweep / "1"))
        except FileNotFoundError:
            continue
        # Once in the job as it was first queued, and once in the one that went on.
        if lease and epochs >= 2 + 6 * len(preempted) and lease["process"] not in preempted:
            preempted.append(lease["process"])
            os.kill(lease["process"], signal.SIGUSR2)
    said = finish(process)
    assert process.returncode == 0, said
    assert len(preempted) == 2
    queue = "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.out"))
    assert queue.count("Requeued job") == 2
    log = (sweep / "1" / "train.log").read_text()
    assert log.count("stopped by SIGUSR2") == 2
    assert [job["state"] for job in ledger(sweep)] == ["finished", "finished"]
    assert_same_runs(tmp_path / "calm", sweep)
    assert not leftovers(sweep)
