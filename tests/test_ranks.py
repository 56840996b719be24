"""Several processes train the run that one process trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Command
from omegaconf import OmegaConf
from processes import clean_environment
from small_run import composed, config, train

from resnet_sweep.composition.gate import Gate
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import LAST, read_checkpoint
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.torchrun import Torchrun

WORDS = (
    "trainer=ddp", "data=digits", "data.limit_train=100", "data.limit_test=51", "logger=csv",
    "trainer.epochs=3", "trainer.batch_size=16", "trainer.device=cpu", "trainer.threads=1",
    "trainer.precision=float32", "optim.lr=0.02",
)  # fmt: skip


def several(size: int, rank: int = 0) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


def torchrun(folder: Path, fate: str, *words: str) -> subprocess.CompletedProcess:
    """Run two processes in a folder, of which the second meets a fate."""
    (folder / "mine" / "model").mkdir(parents=True)
    (folder / "mine" / "model" / "network.yaml").write_text("_target_: network_of_ranks.Network\n")
    trusted = {"RESNET_SWEEP_TRUST": "network_of_ranks", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
            "--max-restarts=1", "-m", "resnet_sweep", "--config-dir", "mine", "model=network",
            *WORDS, *words,
        ],
        cwd=folder, env=clean_environment() | trusted | {"FATE": fate},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The config that `torchrun` composes."""
    monkeypatch.setenv("RESNET_SWEEP_TRUST", "network_of_ranks")
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


def test_two_processes_of_which_one_is_killed_train_what_one_does(
    settings: dict, tmp_path: Path
) -> None:
    done = torchrun(tmp_path, "killed")
    assert done.returncode == 0, done.stderr
    # Started again by torchrun, the run found its directory, which nobody had named.
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/run.json"))
    record = Record.read(directory)
    assert (record.state, record.ranks) == ("finished", 2)
    assert done.stdout.count("going on at epoch 2, step 1 of 7") == 1
    # Rank 0 alone tells of it.
    assert done.stdout.count("epoch 3/3") == 1
    assert len([*tmp_path.glob("outputs/*/*")]) == 1
    train(prepare(settings), tmp_path / "alone")
    assert_same_results(directory, tmp_path / "alone")


def test_a_terminated_torchrun_leaves_what_one_process_goes_on_with(
    settings: dict, tmp_path: Path
) -> None:
    done = torchrun(tmp_path, "terminated", "hydra.run.dir=run")
    assert done.returncode == 1, done.stderr
    assert "stopped by SIGTERM; its state is saved" in done.stdout
    assert "torchrun --nproc_per_node=2 -m resnet_sweep" in done.stdout
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["state"] == "interrupted"
    # In the midst of an epoch.
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / LAST)["step"] > 0
    train(prepare(settings), tmp_path / "run")
    train(prepare(settings), tmp_path / "alone")
    assert_same_results(tmp_path / "run", tmp_path / "alone")


@pytest.mark.parametrize(("count", "size"), [(128, 2), (29, 4), (7, 7), (5, 8), (0, 3)])
def test_shares_are_the_whole_in_order(count: int, size: int) -> None:
    batch = list(range(count))
    shares = [batch[several(size, rank).share(count)] for rank in range(size)]
    assert [image for share in shares for image in share] == batch
    assert {len(share) for share in shares} <= {count // size, count // size + 1}


@pytest.mark.parametrize(
    ("size", "changes", "told"),
    [
        (2, {"trainer__sync_batch_norm": False}, "torchrun started 2 processes, but trainer.distr"),
        (2, {"trainer__distributed": True}, "choose trainer.sync_batch_norm=false, by which"),
        (
            5,
            {"trainer__distributed": True, "trainer__sync_batch_norm": False},
            "leaves 4 of the 100 training images for the last batch, too few for 5 processes",
        ),
    ],
)
def test_what_processes_cannot_share_is_refused(size: int, changes: dict, told: str) -> None:
    with pytest.raises(RequestError, match=told.replace(".", r"\.")):
        prepare(config(**changes), several(size))


def test_a_sweep_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(Ranks, "here", staticmethod(lambda: several(2)))
    monkeypatch.setattr("resnet_sweep.composition.gate.check_hydra", lambda hydra: None)
    with pytest.raises(SystemExit) as leaving:
        Gate().on_multirun_start(OmegaConf.create({"hydra": {}}))
    assert leaving.value.code == 2
    assert "torchrun started 2 processes for a sweep" in capsys.readouterr().err


def test_statistics_of_shares_make_another_run_and_the_number_of_processes_does_not() -> None:
    alone = prepare(config())
    assert prepare(config(trainer__distributed=True)).signature == alone.signature
    changes = {"trainer__distributed": True, "trainer__sync_batch_norm": False}
    of_shares = [prepare(config(**changes), several(size)) for size in (1, 2, 4)]
    assert len({each.signature for each in of_shares}) == 1
    assert of_shares[0].signature != alone.signature
    assert "each of 4 processes' share" in of_shares[2].notes[-1]
    assert not of_shares[0].notes


def test_a_run_is_where_torchruns_name_says(tmp_path: Path) -> None:
    def named(run_id: str) -> Torchrun:
        words = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
        return Torchrun.here(words | {"TORCHELASTIC_RUN_ID": run_id})

    assert Torchrun.here({}) is None
    assert named("job-17").directory(lambda: tmp_path) == Path("outputs/job-17")
    assert named("none").name is None
    assert named("0de13ba3-088d-4e7a-990b-ae29bab0a38f").name is None
    for wrong in ("../x", ".hidden", "a/b", ""):
        with pytest.raises(RequestError, match="can't be the name of a directory"):
            _ = named(wrong).name


def test_torchruns_refusals_are_told_once(command: Command, tmp_path: Path) -> None:
    done = command(
        "--nproc_per_node=2", "-m", "resnet_sweep", *WORDS[1:], module="torch.distributed.run"
    )
    assert done.returncode == 1
    assert done.stderr.count("error: torchrun started 2 processes, but") == 1
    assert not list(tmp_path.iterdir())
