"""Jobs that submitit starts, stops with signals and requeues."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from small_sweep import TINY, assert_same_runs, finish, leftovers, manifest, records, start

from resnet_sweep.runs.metrics import read_metrics

SWEEP = (
    "--multirun",
    *TINY,
    "trainer.epochs=16",
    "data.limit_train=300",
    "hydra.sweep.dir=sweep",
    "seed=0,1",
)


@pytest.mark.slow
def test_a_job_continues_after_sigterm_and_is_requeued_and_resumed_after_sigusr2(
    tmp_path: Path,
) -> None:
    undisturbed = start(tmp_path, *SWEEP, "hydra.sweep.dir=undisturbed")
    output = finish(undisturbed)
    assert undisturbed.returncode == 0, output
    sweep = tmp_path / "sweep"
    process = start(tmp_path, *SWEEP, "hydra/launcher=submitit_local")
    # SIGTERM is SLURM's warning, after which a job continues. SIGUSR2 is submitit's signal to end.
    signals, sent = [signal.SIGTERM, signal.SIGUSR2], 0
    signalled, started, rows = set(), "", b""
    while process.poll() is None and sent < 2:
        time.sleep(0.02)
        try:
            record = json.loads((sweep / "1" / "run.json").read_text())
            heartbeat, epochs = record["heartbeat"], len(read_metrics(sweep / "1"))
        except FileNotFoundError:
            continue
        if heartbeat and epochs >= 2 + 5 * sent:
            os.kill(heartbeat["process"], signals[sent])
            sent += 1
            signalled.add(heartbeat["process"])
            started, rows = record["started"], (sweep / "1" / "metrics.csv").read_bytes()
    output = finish(process)
    assert process.returncode == 0, output
    assert sent == 2
    # The process continued after the first signal, and got the second one.
    assert len(signalled) == 1
    queue = "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.out"))
    assert len(re.findall(r"^submitit .*Requeued job", queue, re.MULTILINE)) == 1
    log = (sweep / "1" / "train.log").read_text()
    assert log.index("SIGTERM") < log.index("SIGUSR2")
    # The rows until then are unchanged, including their times, so the job was resumed.
    assert (sweep / "1" / "metrics.csv").read_bytes().startswith(rows)
    assert records(sweep)["1"]["started"] == started
    assert [job["state"] for job in manifest(sweep)] == ["finished", "finished"]
    assert_same_runs(tmp_path / "undisturbed", sweep)
    assert not leftovers(sweep)
