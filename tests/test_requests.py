"""Requests that only a generator or an adversary would make get one sentence, too."""

import os
from pathlib import Path

import processes
import pytest
from conftest import Command

from resnet_sweep.__main__ import main
from resnet_sweep.composition.complaint import LONGEST, sentence
from resnet_sweep.errors import RequestError
from resnet_sweep.training.device import memory_bytes

SMALL = ("data=digits", "model=resnet8v2", "logger=csv", "trainer.threads=1")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("hydra.job.name=a/b", "hydra.job.name=a/b can't be the name of a log file"),
        (f"hydra.job.name={'a' * 300}", "choose a shorter one"),
        ("hydra.output_subdir=../x", "hydra.output_subdir=../x leads out of the run directory"),
        ("++hydra.job.chdir=${hydra:runtime.cwd}", "hydra.job.chdir=${hydra:runtime.cwd} must be"),
        ("logger=null", "logger=null chooses nothing"),
        ("+schedule=true", "must name one or several of constant, cosine"),
        ("optim.lr=1e300", "or other settings than lr=1e+300"),
        ("model.blocks=[100000,1,1]", "blocks=[100000, 1, 1] are more than 1000 in all"),
        ("model.widths=[1000000,8,8]", "weights and their gradients take"),
        ("trainer.clip_grad_norm=1e301", "trainer.clip_grad_norm is a number beyond 1e+300"),
        (f"trainer.epochs=1{'0' * 400}", "trainer.epochs is a number beyond 9.22337e+18"),
        (f"seed=1{'0' * 5000}", "value has 5001 digits"),
        (f"+model.x={'[' * 30}{']' * 30}", "model.x is nested too deep"),
        ("a\nb\x1b[2J=1", r"a; b\x1b[2J=1 can't be read"),
        ("hydra.job_logging.handlers.file.filename=/dev/null/x", "out of the run directory: begin"),
        (
            "hydra.job_logging.handlers.file.filename='${hydra.runtime.output_dir}/\x7f'",
            "out of the run directory: begin",
        ),
        ("hydra.output_subdir=${hydra:runtime.cwd}", "leads out of the run directory: choose one"),
        ("hydra.overrides.task=[[1]]", "hydra.overrides.task would change what was typed"),
        ("hydra.overrides.task=[x]", "hydra.overrides.task=[x] would change what was typed"),
        ("hydra.launcher=-", "hydra.launcher=- is no launcher: choose one with hydra/launcher="),
        ("replicates=1001", "replicates must be a whole number at least 1 and at most 1000, but"),
        ("hydra.sweeper=-", "hydra.sweeper=- is no sweeper: choose one with hydra/sweeper=NAME"),
        ("seed=1,2", "seed=1,2 has several values: add --multirun to sweep over them, or write"),
        (
            "augmentation=[cutmix,foo]",
            "there is no augmentation=foo: there is color_jitter, cutmix",
        ),
        ("sweep_mode=preview", "sweep_mode=preview is of a sweep, but this is a single run: add"),
        ("sweep_filter=seed < 1", "sweep_filter=seed < 1 is of a sweep, but this is a single run"),
        ("zip=[a,b]", "is of a sweep, but this is a single run: add --multirun, or leave it out"),
        ("data.holdout=5000", "choose a smaller number, or data.holdout=null"),
    ],
    ids=range(28),
)
def test_it_is_refused_and_leaves_nothing(
    command: Command, tmp_path: Path, override: str, told: str
) -> None:
    done = command(*SMALL, override)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_sweep_has_no_single_runs_directory(command: Command, tmp_path: Path) -> None:
    done = command(*SMALL, "replicates=2", "hydra.run.dir=here")
    assert done.returncode == 2
    assert "hydra.run.dir=here is the directory of a single run, but this is a" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_setting_that_a_network_of_others_hasnt_is_named(command: Command) -> None:
    done = command("debug=overfit", "data=digits", "model=torchvision_resnet18")
    assert done.returncode == 2
    assert "model.dropout=0.0 isn't a setting of" in done.stderr
    assert "leave it out (~model.dropout" in done.stderr


def test_a_name_that_no_file_can_have_is_refused(call: Command, tmp_path: Path) -> None:
    # A shell can't type it, but a config may hold it.
    done = call(main, *SMALL, "hydra.run.dir='a\x00b'")
    assert done.returncode == 2
    assert "can't be the name of a directory" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_flag_that_takes_the_next_word_is_refused(command: Command, tmp_path: Path) -> None:
    for others in ((), ("-cn", "config")):
        done = command(*SMALL, "-p", "seed=1", *others)
        assert done.returncode == 2
        assert done.stderr.startswith("error: -p is a flag of --cfg")
        assert not list(tmp_path.iterdir())
    assert command("--cfg", "job", "-p", "optim").stdout.startswith("# @package optim\n")


def test_a_log_that_cannot_be_set_up_fails_the_run_in_one_sentence(
    command: Command, tmp_path: Path
) -> None:
    done = command(*SMALL, "hydra.job_logging.version=2", "hydra.run.dir=run")
    assert done.returncode == 1
    assert done.stderr == "error: Unsupported version: 2\n"
    assert '"state": "failed"' in (tmp_path / "run" / "run.json").read_text()


def test_beside_a_value_that_leads_nowhere_a_wrong_name_is_told(command: Command) -> None:
    done = command(*SMALL, "zip=${nope}", "eference=1")
    assert done.returncode == 2
    assert done.stderr == "error: eference isn't a setting: did you mean reference?\n"


def test_a_run_goes_on_without_its_log(command: Command, tmp_path: Path) -> None:
    done = command(
        *SMALL, "trainer.max_steps=1", "hydra.run.dir=run",
        "hydra.job_logging.handlers.file.filename=${hydra.runtime.output_dir}/no/x.log",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "/run/no/x.log can't be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert '"state": "finished"' in (tmp_path / "run" / "run.json").read_text()


def test_a_long_request_is_told_in_few_words() -> None:
    told = sentence(RequestError(f"{'a' * 10**6} isn't a setting: did you mean b?"))
    assert len(told) < LONGEST + 10
    assert told.endswith("did you mean b?")


def test_there_is_memory() -> None:
    assert 2**28 < memory_bytes() < 2**60


def test_what_the_environment_holds_stays_out_of_the_run_directory(
    command: Command, tmp_path: Path
) -> None:
    secret = "hunter2-0123456789"
    done = command(
        *SMALL, "trainer.max_steps=1", "trainer.batch_size=16", "hydra.run.dir=run",
        API_TOKEN=secret, MLFLOW_TRACKING_PASSWORD=secret, HYDRA_SECRET=secret,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "hydra.yaml", "train.log"} <= {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in done.stdout + done.stderr


def test_a_refusal_that_nobody_can_read_is_one_all_the_same(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = processes.run(tmp_path, "experiment=quickstart", "optim.lr=-1", stderr=writer)
    os.close(writer)
    assert done.returncode
    assert not list(tmp_path.iterdir())
