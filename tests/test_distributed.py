"""Distributed training by torchrun: several processes train the run that one process trains."""

import json
import re
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from conftest import Command
from processes import clean_environment
from small_run import composed, config, train
from torch.distributed import TCPStore

from resnet_sweep.__main__ import main
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.torchrun import TorchrunEnvironment
from resnet_sweep.training.checkpoint import LAST, read_checkpoint
from resnet_sweep.training.distributed import ProcessGroup

OVERRIDES = (
    "trainer=ddp",
    "data=digits",
    "data.limit_train=100",
    "data.limit_test=51",
    "logger=csv",
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.precision=float32",
    "optim.lr=0.02",
)
ENVIRONMENT = {
    "RESNET_SWEEP_TRUSTED_PACKAGES": "network_of_ranks",
    "PYTHONPATH": str(Path(__file__).parent),
}


def process_group(size: int, rank: int = 0) -> ProcessGroup:
    group = ProcessGroup()
    group.rank, group.world_size = rank, size
    return group


def write_network(folder: Path) -> None:
    """Write a config folder, `mine`, with the network in network_of_ranks.py."""
    (folder / "mine" / "model").mkdir(parents=True)
    (folder / "mine" / "model" / "network.yaml").write_text("_target_: network_of_ranks.Network\n")


def torchrun(folder: Path, fate: str, *overrides: str) -> subprocess.CompletedProcess:
    """Run two processes in a folder; see network_of_ranks.py for the fault of the second one."""
    write_network(folder)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node=2",
            # One restart is for the killed process. Gloo can abort another process at its exit.
            "--max-restarts=2",
            "-m",
            "resnet_sweep",
            "--config-dir",
            "mine",
            "model=network",
            *OVERRIDES,
            *overrides,
        ],
        cwd=folder,
        env=clean_environment() | ENVIRONMENT | {"FAULT": fate},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Return the config that `torchrun` composes."""
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "network_of_ranks")
    return composed(*OVERRIDES) | {"model": {"_target_": "network_of_ranks.Network"}}


def assert_same_results(one: Path, other: Path) -> None:
    ours, theirs = (read_metrics(run) for run in (one, other))
    assert len(ours) == len(theirs) == 3
    for row, expected in zip(ours, theirs, strict=True):
        for name in ("lr", "train_loss", "train_acc", "val_loss", "val_acc", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
    ours, theirs = (read_checkpoint(run / "checkpoints" / LAST)["model"] for run in (one, other))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_two_processes_train_what_one_does(settings: dict, tmp_path: Path) -> None:
    write_network(tmp_path)
    # Set what torchrun sets, but fork the processes instead of starting interpreters.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = ENVIRONMENT | {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    ranks = [
        processes.start(
            tmp_path,
            "--config-dir",
            "mine",
            "model=network",
            *OVERRIDES,
            environment=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    record = Record.read(directory)
    assert (record.state, record.world_size) == ("finished", 2)
    # Only rank 0 prints.
    assert re.findall(r"\b(\d)/3\b", "".join(outputs)) == ["1", "2", "3"]
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(directory, tmp_path / "alone")


@pytest.mark.slow
def test_a_torchrun_with_a_killed_process_trains_what_one_process_does(
    settings: dict, tmp_path: Path
) -> None:
    process = torchrun(tmp_path, "killed")
    assert process.returncode == 0, process.stderr
    # torchrun started the processes again, and they found the directory without hydra.run.dir.
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    record = Record.read(directory)
    assert (record.state, record.world_size) == ("finished", 2)
    # The second process was killed in the second epoch. Each epoch is printed once, so the first
    # one wasn't trained again.
    assert re.findall(r"\b(\d)/3\b", process.stdout) == ["1", "2", "3"]
    assert len([*tmp_path.glob("outputs/*/*")]) == 1
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(directory, tmp_path / "alone")


@pytest.mark.slow
def test_one_process_resumes_the_run_of_a_terminated_torchrun(
    settings: dict, tmp_path: Path
) -> None:
    process = torchrun(tmp_path, "terminated", "hydra.run.dir=run")
    assert process.returncode == 1, process.stderr
    assert "SIGTERM" in process.stdout
    assert "torchrun --nproc_per_node=2 -m resnet_sweep" in process.stdout
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["state"] == "interrupted"
    # The run was interrupted within an epoch.
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / LAST)["step"] > 0
    train(plan_run(settings), tmp_path / "run")
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(("count", "size"), [(128, 2), (29, 4), (7, 7), (5, 8), (0, 3)])
def test_the_shares_of_all_ranks_are_the_batch_in_order(count: int, size: int) -> None:
    batch = list(range(count))
    shares = [batch[process_group(size, rank).share(count)] for rank in range(size)]
    assert [image for share in shares for image in share] == batch
    assert {len(share) for share in shares} <= {count // size, count // size + 1}


@pytest.mark.parametrize(
    ("size", "changes", "facts"),
    [
        (2, {"trainer__sync_batch_norm": False}, ["2", "trainer.distributed=false"]),
        (2, {"trainer__distributed": True}, ["cpu", "trainer.sync_batch_norm=false"]),
        # The last of the batches of 16 has 4 of the 100 images, which 5 processes can't share.
        (
            5,
            {"trainer__distributed": True, "trainer__sync_batch_norm": False},
            ["trainer.batch_size=16", "4", "100", "5"],
        ),
    ],
)
def test_a_run_that_processes_cannot_share_is_refused(
    size: int, changes: dict, facts: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        plan_run(config(**changes), process_group(size))
    for fact in facts:
        assert re.search(rf"(?<![\d.]){re.escape(fact)}(?!\d)", str(error.value)), fact


def test_torchrun_refuses_a_sweep(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        TorchrunEnvironment,
        "current",
        classmethod(lambda cls: TorchrunEnvironment(0, 2, 0, "none")),
    )
    result = call(main, "--multirun", "data=digits", "seed=0,1")
    processes.assert_refused(result, "torchrun", "2", "hydra/launcher=pool")


def test_the_signature_depends_on_sync_batch_norm_but_not_on_the_number_of_processes() -> None:
    alone = plan_run(config())
    assert plan_run(config(trainer__distributed=True)).signature == alone.signature
    changes = {"trainer__distributed": True, "trainer__sync_batch_norm": False}
    plans = [plan_run(config(**changes), process_group(size)) for size in (1, 2, 4)]
    assert len({plan.signature for plan in plans}) == 1
    assert plans[0].signature != alone.signature
    assert not plans[0].notes
    assert "4" in plans[2].notes[-1] and "BatchNorm" in plans[2].notes[-1]


def test_the_run_directory_follows_from_torchruns_rdzv_id(tmp_path: Path) -> None:
    def with_id(run_id: str) -> TorchrunEnvironment:
        variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        return TorchrunEnvironment.current(variables | {"TORCHELASTIC_RUN_ID": run_id})

    assert TorchrunEnvironment.current({}) is None
    assert with_id("job-17").directory(lambda: tmp_path) == Path("outputs/job-17")
    assert with_id("none").run_name is None
    assert with_id("0de13ba3-088d-4e7a-990b-ae29bab0a38f").run_name is None
    for wrong in ("../x", ".hidden", "a/b", ""):
        with pytest.raises(ConfigError) as error:
            _ = with_id(wrong).run_name
        assert f"--rdzv-id={wrong}" in str(error.value)
        assert "hydra.run.dir=" in str(error.value)


@pytest.mark.slow
def test_an_error_in_several_processes_is_printed_once(command: Command, tmp_path: Path) -> None:
    process = command(
        "--nproc_per_node=2", "-m", "resnet_sweep", *OVERRIDES[1:], module="torch.distributed.run"
    )
    assert process.returncode == 1
    (line,) = (line for line in process.stderr.splitlines() if line.startswith("error: "))
    assert "2" in line and "trainer.distributed=false" in line
    assert not list(tmp_path.iterdir())
