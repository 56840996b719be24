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


def test_a_warned_job_saves_and_one_that_is_to_end_goes_on_when_queued_again(
    tmp_path: Path,
) -> None:
    calm = start(tmp_path, *SWEEP, "hydra.sweep.dir=calm")
    said = finish(calm)
    assert calm.returncode == 0, said
    sweep = tmp_path / "sweep"
    process = start(tmp_path, *SWEEP, "hydra/launcher=submitit_local")
    # SLURM's warning, which lets a job go on until it is killed, and then submitit's order to end.
    signals, sent = [signal.SIGTERM, signal.SIGUSR2], 0
    while process.poll() is None and sent < 2:
        time.sleep(0.02)
        try:
            lease = json.loads((sweep / "1" / "run.json").read_text())["lease"]
            epochs = len(read_metrics(sweep / "1"))
        except FileNotFoundError:
            continue
        if lease and epochs >= 2 + 5 * sent:
            os.kill(lease["process"], signals[sent])
            sent += 1
    said = finish(process)
    assert process.returncode == 0, said
    assert sent == 2
    queue = "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.out"))
    assert queue.count("Requeued job") == 1
    log = (sweep / "1" / "train.log").read_text()
    assert log.index("saved, and going on") < log.index("stopped by SIGUSR2")
    assert log.count("going on at epoch") == 1
    assert [job["state"] for job in ledger(sweep)] == ["finished", "finished"]
    assert_same_runs(tmp_path / "calm", sweep)
    assert not leftovers(sweep)
