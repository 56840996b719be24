"""Several processes train the run that one process trains."""

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

WORDS = (
    "trainer=ddp", "data=digits", "data.limit_train=100", "data.limit_test=51", "logger=csv",
    "trainer.epochs=3", "trainer.batch_size=16", "trainer.device=cpu", "trainer.threads=1",
    "trainer.precision=float32", "optim.lr=0.02",
)  # fmt: skip


TRUSTED = {
    "RESNET_SWEEP_TRUSTED_PACKAGES": "network_of_ranks",
    "PYTHONPATH": str(Path(__file__).parent),
}


def several(size: int, rank: int = 0) -> ProcessGroup:
    ranks = ProcessGroup()
    ranks.rank, ranks.world_size = rank, size
    return ranks


def write_network(folder: Path) -> None:
    """Write a config folder, `mine`, with the network of network_of_ranks."""
    (folder / "mine" / "model").mkdir(parents=True)
    (folder / "mine" / "model" / "network.yaml").write_text("_target_: network_of_ranks.Network\n")


def torchrun(folder: Path, fate: str, *words: str) -> subprocess.CompletedProcess:
    """Run two processes in a folder; `fate` is what the second one does, see network_of_ranks."""
    write_network(folder)
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
            "--max-restarts=1", "-m", "resnet_sweep", "--config-dir", "mine", "model=network",
            *WORDS, *words,
        ],
        cwd=folder, env=clean_environment() | TRUSTED | {"FATE": fate},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The config that `torchrun` composes."""
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "network_of_ranks")
    return composed(*WORDS) | {"model": {"_target_": "network_of_ranks.Network"}}


def assert_same_results(one: Path, other: Path) -> None:
    ours, theirs = (read_metrics(each) for each in (one, other))
    assert len(ours) == len(theirs) == 3
    for row, expected in zip(ours, theirs, strict=True):
        for name in ("lr", "train_loss", "train_acc", "val_loss", "val_acc", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
    ours, theirs = (read_checkpoint(each / "checkpoints" / LAST)["model"] for each in (one, other))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_two_processes_train_what_one_does(settings: dict, tmp_path: Path) -> None:
    write_network(tmp_path)
    # As torchrun does, but without a new interpreter for each process.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = TRUSTED | {
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
    }  # fmt: skip
    ranks = [
        processes.start(
            tmp_path, "--config-dir", "mine", "model=network", *WORDS,
            environment=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [rank.communicate(60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    record = Record.read(directory)
    assert (record.state, record.world_size) == ("finished", 2)
    # Rank 0 alone prints.
    assert re.findall(r"\b(\d)/3\b", "".join(outputs)) == ["1", "2", "3"]
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(directory, tmp_path / "alone")


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_train_what_one_does(
    settings: dict, tmp_path: Path
) -> None:
    done = torchrun(tmp_path, "killed")
    assert done.returncode == 0, done.stderr
    # Started again by torchrun, the run found its directory, which nobody had named.
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    record = Record.read(directory)
    assert (record.state, record.world_size) == ("finished", 2)
    # The second process was killed in the second epoch, and rank 0 alone prints: each epoch is
    # printed once, so that the first one wasn't trained again.
    assert re.findall(r"\b(\d)/3\b", done.stdout) == ["1", "2", "3"]
    assert len([*tmp_path.glob("outputs/*/*")]) == 1
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(directory, tmp_path / "alone")


@pytest.mark.slow
def test_one_process_resumes_the_run_of_a_terminated_torchrun(
    settings: dict, tmp_path: Path
) -> None:
    done = torchrun(tmp_path, "terminated", "hydra.run.dir=run")
    assert done.returncode == 1, done.stderr
    assert "SIGTERM" in done.stdout
    assert "torchrun --nproc_per_node=2 -m resnet_sweep" in done.stdout
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["state"] == "interrupted"
    # It was interrupted within an epoch.
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / LAST)["step"] > 0
    train(plan_run(settings), tmp_path / "run")
    train(plan_run(settings), tmp_path / "alone")
    assert_same_results(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(("count", "size"), [(128, 2), (29, 4), (7, 7), (5, 8), (0, 3)])
def test_shares_are_the_whole_in_order(count: int, size: int) -> None:
    batch = list(range(count))
    shares = [batch[several(size, rank).share(count)] for rank in range(size)]
    assert [image for share in shares for image in share] == batch
    assert {len(share) for share in shares} <= {count // size, count // size + 1}


@pytest.mark.parametrize(
    ("size", "changes", "facts"),
    [
        (2, {"trainer__sync_batch_norm": False}, ["2", "trainer.distributed=false"]),
        (2, {"trainer__distributed": True}, ["cpu", "trainer.sync_batch_norm=false"]),
        # 100 images in batches of 16 leave 4 for the last one.
        (
            5,
            {"trainer__distributed": True, "trainer__sync_batch_norm": False},
            ["trainer.batch_size=16", "4", "100", "5"],
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(size: int, changes: dict, facts: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_run(config(**changes), several(size))
    for fact in facts:
        assert re.search(rf"(?<![\d.]){re.escape(fact)}(?!\d)", str(refusal.value)), fact


def test_a_sweep_is_not_shared(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = TorchrunEnvironment(0, 2, 0, "none")
    monkeypatch.setattr(TorchrunEnvironment, "current", classmethod(lambda cls: shared))
    done = call(main, "--multirun", "data=digits", "seed=0,1")
    processes.assert_refused(done, "torchrun", "2", "hydra/launcher=pool")


def test_statistics_of_shares_make_another_run_and_the_number_of_processes_does_not() -> None:
    alone = plan_run(config())
    assert plan_run(config(trainer__distributed=True)).signature == alone.signature
    changes = {"trainer__distributed": True, "trainer__sync_batch_norm": False}
    of_shares = [plan_run(config(**changes), several(size)) for size in (1, 2, 4)]
    assert len({each.signature for each in of_shares}) == 1
    assert of_shares[0].signature != alone.signature
    assert not of_shares[0].notes
    assert "4" in of_shares[2].notes[-1] and "BatchNorm" in of_shares[2].notes[-1]


def test_a_run_is_where_torchruns_name_says(tmp_path: Path) -> None:
    def named(run_id: str) -> TorchrunEnvironment:
        words = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        return TorchrunEnvironment.current(words | {"TORCHELASTIC_RUN_ID": run_id})

    assert TorchrunEnvironment.current({}) is None
    assert named("job-17").directory(lambda: tmp_path) == Path("outputs/job-17")
    assert named("none").run_name is None
    assert named("0de13ba3-088d-4e7a-990b-ae29bab0a38f").run_name is None
    for wrong in ("../x", ".hidden", "a/b", ""):
        with pytest.raises(ConfigError) as refusal:
            _ = named(wrong).run_name
        assert f"--rdzv-id={wrong}" in str(refusal.value)
        assert "hydra.run.dir=" in str(refusal.value)


@pytest.mark.slow
def test_a_refusal_of_several_processes_is_printed_once(command: Command, tmp_path: Path) -> None:
    done = command(
        "--nproc_per_node=2", "-m", "resnet_sweep", *WORDS[1:], module="torch.distributed.run"
    )
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "2" in line and "trainer.distributed=false" in line
    assert not list(tmp_path.iterdir())
