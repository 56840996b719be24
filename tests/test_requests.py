"""Requests that only a generator or an adversary would make are refused with one line, too."""

import os
import re
import time
from pathlib import Path

import processes
import pytest
from conftest import Command
from small_run import composed

from resnet_sweep.__main__ import main
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.errors import MAX_LENGTH, format_error
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run, write_plan
from resnet_sweep.training.device import memory_bytes

SMALL = (
    "data=digits", "model=resnet8v2", "logger=csv", "trainer.threads=1", "data.limit_test=50",
)  # fmt: skip


# An override, and what its refusal names.
REFUSALS = [
    ("logger=null", "logger=null", "csv", "mlflow", "tensorboard"),
    ("+schedule=true", "schedule=true", "constant", "cosine"),
    ("optim.lr=1e300", "optim", "lr=1e+300"),
    ("model.blocks=[100000,1,1]", "model", "blocks=[100000, 1, 1]", "1000"),
    ("model.widths=[1000000,8,8]", "model.widths", "18,000,113,001,946", "134,111.3 GB"),
    (f"trainer.epochs=1{'0' * 400}", "trainer.epochs", "9223372036854775807"),
    (f"seed=1{'0' * 5000}", "5001"),
    (f"+model.x={'[' * 30}{']' * 30}", "model.x"),
    ("a\nb\x1b[2J=1", r"b\x1b[2J=1"),
    ("replicates=1001", "replicates", "1", "1000", "1001"),
    ("seed=1,2", "seed=1,2", "--multirun", "seed=[1,2]"),
    ("augmentation=[cutmix,foo]", "augmentation=foo", "color_jitter", "trivial_augment"),
    ("retry_failed=false", "retry_failed=false", "--multirun"),
    ("sweep=???", "sweep=???"),
    ("sweep_filter=seed < 1", "sweep_filter=seed < 1", "--multirun"),
    ("zip=[a,b]", 'zip=["a", "b"]', "--multirun"),
    ("baseline=seed == 0", "baseline=seed == 0", "--multirun"),
    ("hydra/sweeper=optuna", "hydra/sweeper=optuna", "--multirun"),
    ("hydra/launcher=pool", "hydra/launcher=pool", "--multirun"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir=x", "--multirun"),
    ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_trials", "hydra/sweeper=optuna"),
    ("n_trials=3", "n_trials", "hydra.sweeper.n_trials", "hydra/sweeper=optuna"),
    ("foo", "foo", "=", "GROUP=CHOICE"),
    ("=1", "=1", "KEY=VALUE"),
    ("@x=1", "@x=1", "KEY=VALUE"),
    ("+experiment=cutmix", "+experiment=cutmix", "experiment=cutmix"),
    ("optim.lr=", "optim.lr", "empty"),
    ("optim.lr=inf", "optim.lr", "inf", "finite"),
    ("--multirn", "--multirn", "--multirun"),
    ("--config-dir=nowhere", "nowhere", "--config-dir"),
    ("--config-path=nowhere", "nowhere", "--config-dir"),
    ("--experimental-rerun=nowhere", "--experimental-rerun=nowhere", "hydra.run.dir"),
    ("data.holdout=5000", "data.holdout=5000", "1437", "data.holdout=null"),
    ("trainer.epoch=5", "trainer.epoch", "trainer.epochs"),
    ("experiment={a:1}", "experiment={a:1}", "quickstart"),
    ("--optim.lr=0.02", "--optim.lr=0.02", "optim.lr=0.02"),
    ("--cfg=nope", "--cfg", "nope", "job"),
    ("--config-path=old/.hydra", "old/.hydra", "old/.hydra/overrides.yaml"),
    ("--config-dir=old/.hydra", "old/.hydra", "old/.hydra/overrides.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "facts"),
    [(override, facts) for override, *facts in REFUSALS],
    ids=[override[:50] for override, *_ in REFUSALS],
)
def test_request_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path, override: str, facts: list[str]
) -> None:
    done = call(main, *SMALL, override)
    processes.assert_refused(done, *facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["zip=foo"], ["zip", "foo", "[optim.lr,seed]"]),
        (["seed=0,1", "dry_run=true,false"], ["dry_run", "true", "false"]),
        (["sweep=optuna_sgd", "hydra/sweeper=grid"], ["hydra.sweeper.n_trials"]),
        (["sweep=nope,recommended"], ["sweep=nope"]),
    ],
)
def test_sweep_is_refused_with_the_value(
    call: Command, tmp_path: Path, overrides: list[str], facts: list[str]
) -> None:
    done = call(main, "--multirun", *SMALL, *overrides)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for fact in facts:
        assert processes.names(done.stderr, fact), done.stderr
    assert not list(tmp_path.iterdir())


def test_broken_preset_is_named(call: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "broken.yaml").write_text("trainer: [1\n")
    done = call(main, "--config-dir=mine", *SMALL, "experiment=broken")
    processes.assert_refused(done, "experiment/broken.yaml", "YAML")


def test_model_with_weights_of_unknown_size_is_refused(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_networks.py").write_text(
        "from torch import nn\n"
        "def network(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "lazy_networks")
    model = "model={_target_: lazy_networks.network}"
    processes.assert_refused(call(main, "data=digits", "~model", f"+{model}"), "model")


def test_counts_of_one_are_singular(call: Command) -> None:
    words = ("trainer.epochs=1", "trainer.max_steps=1", "dry_run=true")
    printed = call(main, *SMALL, *words).stdout
    assert re.search(r"\b1 epoch\b.*\b1 step\b", printed)
    assert re.search(r"\b1 thread\b", printed)


def test_a_choice_may_be_named_by_a_number(call: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for name, epochs in (("2024", 3), ("1e3", 4), ("true", 5)):
        preset = f"# @package _global_\ntrainer:\n  epochs: {epochs}\n"
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(preset)
        done = call(main, "--config-dir", "mine", f"experiment={name}", "--cfg", "job")
        assert f"\n  epochs: {epochs}\n" in done.stdout
    words = ("--config-dir=mine", *SMALL, "dry_run=true", "-m")
    done = call(main, *words, "experiment=2024,1e3")
    assert done.returncode == 0, done.stderr
    assert "2 jobs" in done.stdout
    listed = ("1e3", "2024", "quickstart")
    processes.assert_refused(call(main, *words[:2], "experiment=1e4"), *listed)
    processes.assert_refused(call(main, *words[:2], "experiment=[2024,nope]"), "nope", *listed)
    processes.assert_refused(call(main, *words, "experiment=[2024,nope]"), "nope", *listed)


def test_several_choices_of_a_preset_are_named_in_the_table(call: Command) -> None:
    done = call(main, *SMALL, "-m", "experiment=[cutout,se_attention],mixup", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "cutout+se_attention" in done.stdout


def test_a_setting_is_checked_against_the_choices_of_the_jobs(call: Command) -> None:
    # The default model has no name.
    words = ("data=digits", "model=glob(torchvision*)", "dry_run=true")
    done = call(main, "--multirun", *words, "model.name=resnet34", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert "2 jobs" in done.stdout
    wrong = call(main, "--multirun", *words, "model.nam=resnet34")
    processes.assert_refused(wrong, "model.nam", "model.name")


def test_a_directory_may_be_in_the_home_directory(
    call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/some where")
    for value in ("~/runs/x", "'~/runs/x'"):
        done = call(main, f"hydra.run.dir={value}", "--cfg", "hydra", "-p", "hydra.run")
        assert "dir: /some where/runs/x\n" in done.stdout


def test_directory_of_a_single_run_is_refused_for_a_sweep(call: Command, tmp_path: Path) -> None:
    done = call(main, *SMALL, "replicates=2", "hydra.run.dir=here")
    processes.assert_refused(done, "hydra.run.dir=here", "hydra.sweep.dir")
    assert not list(tmp_path.iterdir())


def test_setting_that_a_network_of_a_library_lacks_is_named(call: Command) -> None:
    done = call(main, "debug=overfit", "data=digits", "model=torchvision_resnet18")
    processes.assert_refused(
        done, "model.dropout=0.0", "resnet_sweep.models.torchvision_classifier", "~model.dropout"
    )


def test_a_name_that_no_file_can_have_is_refused(call: Command, tmp_path: Path) -> None:
    # A shell can't type it, but a config may hold it.
    done = call(main, *SMALL, "hydra.run.dir='a\x00b'")
    processes.assert_refused(done, r"a\x00b")
    assert not list(tmp_path.iterdir())


def test_a_flag_that_takes_the_next_word_is_refused(call: Command, tmp_path: Path) -> None:
    for others in ((), ("-cn", "config")):
        done = call(main, *SMALL, "-p", "seed=1", *others)
        processes.assert_refused(done, "-p", "--cfg")
        assert not list(tmp_path.iterdir())
    shown = call(main, "--cfg", "job", "-p", "optim")
    assert shown.stdout.startswith("# @package optim\n")


@pytest.mark.parametrize("directory", ["run", "outputs/${now:%Y-%m-%d}/run"])
def test_log_that_cannot_be_set_up_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path, directory: str
) -> None:
    done = call(main, *SMALL, "hydra.job_logging.version=2", f"hydra.run.dir={directory}")
    processes.assert_refused(done, "version", "2")
    assert not list(tmp_path.iterdir())


def test_refused_command_leaves_the_folder_of_a_run_that_starts(
    call: Command, tmp_path: Path
) -> None:
    planned = plan_run(composed(*SMALL))
    record = planned.record(ComposedConfig(composed(*SMALL), {}, [], []))
    record.state = "running"
    record.heartbeat = {"host": "elsewhere", "process": 1, "renewed": time.time()}
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    record.write(tmp_path / "run")
    processes.assert_refused(call(main, *SMALL, "hydra.run.dir=run"), "elsewhere")
    processes.assert_refused(call(main, *SMALL, "seed=1", "hydra.run.dir=run"), "seed")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".hydra", "run.json"]


def test_refused_command_removes_the_directory_that_it_made_beside_another(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, record: Record) -> None:
        assert (directory / ".hydra").is_dir()
        raise ConfigError(f"{directory} is refused")

    monkeypatch.setattr(Run, "open", refuse)
    words = (*SMALL, "hydra.run.dir=runs/${now:%Y}")
    processes.assert_refused(call(main, *words), "refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs" / time.strftime("%Y") / ".hydra").mkdir(parents=True)
    processes.assert_refused(call(main, *words), f"{time.strftime('%Y')}-2")
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize("wrong", ["dry_run=true", "trainer.device=cuda:7"])
@pytest.mark.parametrize(
    "directory",
    ["keep/me", "keep/me/x/y", "keep/me/${hydra:job.name}", "keep/${now:%Y}", "keep/me/${now:%Y}"],
)
def test_folders_that_were_there_are_not_removed(
    call: Command, tmp_path: Path, directory: str, wrong: str
) -> None:
    (tmp_path / "keep" / "me").mkdir(parents=True)
    done = call(main, *SMALL, wrong, f"hydra.run.dir={directory}")
    assert done.returncode == (0 if wrong == "dry_run=true" else 2)
    assert "Warning" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep", "me"]


class TestDryRun:
    def test_it_prints_what_would_be_trained_and_leaves_nothing(
        self, call: Command, tmp_path: Path
    ) -> None:
        done = call(main, *SMALL, "trainer.epochs=7", "trainer.max_steps=3", "dry_run=true")
        assert done.returncode == 0, done.stderr
        facts = {
            "Model": ("resnet8v2", "77,850"), "Data": ("digits", "1,437", "50"),
            "Recipe": ("optim sgd", "schedule cosine"), "Length": ("7", "12", "128", "3"),
            "Device": ("cpu", "1", "float32"), "Seed": ("0",), "Run directory": ("outputs",),
        }  # fmt: skip
        lines = dict(re.findall(r"^\s*([\w ]+): +(.*)$", done.stdout, re.MULTILINE))
        for name, values in facts.items():
            for value in values:
                assert re.search(rf"(?<![\d.,]){value}(?!\d|,\d)", lines[name]), (name, value)
        assert not list(tmp_path.iterdir())

    def test_what_could_not_be_trained_is_refused(self, call: Command, tmp_path: Path) -> None:
        done = call(main, *SMALL, "dry_run=true", "trainer.device=cuda:7")
        processes.assert_refused(done, "trainer.device=cuda:7")
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").touch()
        done = call(main, *SMALL, "dry_run=true", "hydra.run.dir=thesis")
        processes.assert_refused(done, "thesis.tex", "hydra.run.dir")
        assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "thesis.tex"]

    def test_a_run_stays_as_it_is(self, call: Command, tmp_path: Path) -> None:
        words = (*SMALL, "hydra.run.dir=run")
        planned = plan_run(composed(*SMALL))
        record = planned.record(ComposedConfig(composed(*SMALL), {}, [], []))
        write_plan(tmp_path / "run", record)
        before = (tmp_path / "run" / "run.json").read_bytes()
        done = call(main, *words, "dry_run=true")
        assert done.returncode == 0, done.stderr
        assert "pending" in done.stdout
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
        assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_wrong_name_is_refused_beside_a_value_that_cannot_be_resolved(call: Command) -> None:
    done = call(main, *SMALL, "zip=${nope}", "eference=1")
    processes.assert_refused(done, "eference", "reference")
    # It is in a list of all settings, which a suggestion stands for.
    assert "trainer" not in done.stderr
    assert "nope" not in done.stderr


def test_run_finishes_without_its_log(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    done = command(*SMALL, "trainer.max_steps=1", "trainer.batch_size=16", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert "/run/train.log" in done.stderr
    assert done.stderr.count("\n") == 1
    assert '"state": "finished"' in (tmp_path / "run" / "run.json").read_text()


def test_long_sentence_is_shortened_in_its_middle() -> None:
    shortened = format_error(ConfigError(f"{'a' * 10**6} isn't known, but b is"))
    assert len(shortened) < MAX_LENGTH + 10
    assert shortened.startswith("aaa")
    assert shortened.endswith("known, but b is")


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


def test_refusal_without_a_reader_has_an_exit_status_and_leaves_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = processes.run(tmp_path, "experiment=quickstart", "optim.lr=-1", stderr=writer)
    os.close(writer)
    assert done.returncode
    assert not list(tmp_path.iterdir())
