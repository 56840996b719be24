"""Unusual command lines: each is refused with one line, and leaves no files."""

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
    "data=digits",
    "model=resnet8v2",
    "logger=csv",
    "trainer.threads=1",
    "data.limit_test=50",
)
# An override, and the facts that its error message names.
REFUSALS = [
    ("logger=null", "logger=null", "csv", "mlflow", "tensorboard"),
    ("augmentation=[]", "augmentation=none"),
    ("trainer.freeze=stem", "trainer.freeze=[stem]"),
    (f"hydra.run.dir={'x' * 300}", "File name too long"),
    (f"+init_from={'x' * 300}", "File name too long"),
    ("+schedule=true", "schedule=true", "constant", "cosine"),
    ("optim.lr=1e300", "optim", "lr=1e+300"),
    ("model.blocks=[100000,1,1]", "model", "blocks=[100000, 1, 1]", "1,000"),
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
    ("sweep=null", "sweep=null", "leave it out"),
    ("experiment=null", "experiment=null", "leave it out"),
    ("sweep_filter=seed < 1", "sweep_filter=seed < 1", "--multirun"),
    ("zip=[a,b]", 'zip=["a", "b"]', "--multirun"),
    ("baseline=seed == 0", "baseline=seed == 0", "--multirun"),
    ("hydra/sweeper=optuna", "hydra/sweeper=optuna", "--multirun"),
    ("hydra/sweeper=judge", "hydra/sweeper=judge", "grid", "optuna"),
    ("hydra/launcher=pool", "hydra/launcher=pool", "--multirun"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir=x", "--multirun"),
    ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_trials", "hydra/sweeper=optuna"),
    ("n_trials=3", "n_trials", "hydra.sweeper.n_trials", "hydra/sweeper=optuna"),
    ("foo", "foo", "=", "GROUP=CHOICE"),
    ("=1", "=1", "KEY=VALUE"),
    ("@x=1", "@x=1", "KEY=VALUE"),
    ("+experiment=cutmix", "+experiment=cutmix", "experiment=cutmix"),
    ("hydra.output_subdir=..", "hydra.output_subdir=..", ".hydra"),
    ("++hydra.output_subdir='a/b'", "hydra.output_subdir='a/b'"),
    ("+loss=${oc.decode:'[1]'}", "BRACE_CLOSE"),
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
]


@pytest.mark.parametrize(
    ("override", "facts"),
    [(override, facts) for override, *facts in REFUSALS],
    ids=[override[:50] for override, *_ in REFUSALS],
)
def test_an_invalid_override_is_refused_and_leaves_no_files(
    call: Command, tmp_path: Path, override: str, facts: list[str]
) -> None:
    result = call(main, *SMALL, override)
    processes.assert_refused(result, *facts)
    assert not list(tmp_path.iterdir())


def test_the_name_of_a_choice_may_be_a_number(call: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    for name, epochs in (("2024", 3), ("1e3", 4), ("true", 5)):
        experiment = f"# @package _global_\ntrainer:\n  epochs: {epochs}\n"
        (tmp_path / "mine" / "experiment" / f"{name}.yaml").write_text(experiment)
        result = call(main, "--config-dir", "mine", f"experiment={name}", "--cfg", "job")
        assert f"\n  epochs: {epochs}\n" in result.stdout
    arguments = ("--config-dir=mine", *SMALL, "dry_run=true", "-m")
    result = call(main, *arguments, "experiment=2024,1e3")
    assert result.returncode == 0, result.stderr
    assert "2 jobs" in result.stdout
    choices = ("1e3", "2024", "quickstart")
    processes.assert_refused(call(main, *arguments[:2], "experiment=1e4"), *choices)
    processes.assert_refused(call(main, *arguments[:2], "experiment=[2024,nope]"), "nope", *choices)
    processes.assert_refused(call(main, *arguments, "experiment=[2024,nope]"), "nope", *choices)


@pytest.mark.parametrize("sweep", [(), ("--multirun", "seed=0,1")], ids=["run", "sweep"])
def test_a_config_file_can_neither_trust_a_package_nor_choose_where_hydra_writes(
    call: Command, tmp_path: Path, sweep: tuple[str, ...]
) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "other.yaml").write_text(
        "# @package _global_\n"
        "data: {_target_: tempfile.mkdtemp, prefix: made, dir: .}\n"
        "hydra:\n"
        "  output_subdir: ../../written\n"
        "  job: {env_set: {RESNET_SWEEP_TRUSTED_PACKAGES: tempfile}}\n"
    )
    result = call(main, "--config-dir=mine", "data=other", "trainer.max_steps=1", *sweep)
    name = "RESNET_SWEEP_TRUSTED_PACKAGES"
    processes.assert_refused(result, f"hydra.job.env_set.{name}", f"+hydra.job.env_set.{name}=")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_table_of_a_dry_run_names_combined_experiments(call: Command) -> None:
    result = call(main, *SMALL, "-m", "experiment=[cutout,se_attention],mixup", "dry_run=true")
    assert result.returncode == 0, result.stderr
    assert "cutout+se_attention" in result.stdout


def test_a_setting_is_checked_against_the_choices_of_each_job(call: Command) -> None:
    # The default model has no setting `name`.
    arguments = ("data=digits", "model=glob(torchvision*)", "dry_run=true")
    result = call(main, "--multirun", *arguments, "model.name=resnet34", "seed=0,1")
    assert result.returncode == 0, result.stderr
    assert "2 jobs" in result.stdout
    wrong = call(main, "--multirun", *arguments, "model.nam=resnet34")
    processes.assert_refused(wrong, "model.nam", "model.name")


def test_a_tilde_stands_for_the_home_directory(
    call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/some where")
    for value in ("~/runs/x", "'~/runs/x'"):
        result = call(main, f"hydra.run.dir={value}", "--cfg", "hydra", "-p", "hydra.run")
        assert "dir: /some where/runs/x\n" in result.stdout


def test_a_directory_may_have_letters_outside_of_ascii(call: Command) -> None:
    result = call(main, "hydra.run.dir=Läufe/${seed}", "--cfg", "hydra", "-p", "hydra.run")
    assert "dir: Läufe/${seed}\n" in result.stdout, result.stderr


def test_a_name_that_the_locale_cannot_represent_is_refused(call: Command, tmp_path: Path) -> None:
    result = call(main, *SMALL, "hydra.run.dir=L\udcc3\udca4ufe")
    processes.assert_refused(result, "PYTHONUTF8=1")
    assert not list(tmp_path.iterdir())


def test_hydra_run_dir_is_refused_for_a_sweep(call: Command, tmp_path: Path) -> None:
    result = call(main, *SMALL, "replicates=2", "hydra.run.dir=here")
    processes.assert_refused(result, "hydra.run.dir=here", "hydra.sweep.dir")
    assert not list(tmp_path.iterdir())


def test_a_setting_that_a_torchvision_network_does_not_have_is_refused(call: Command) -> None:
    result = call(main, "debug=overfit", "data=digits", "model=torchvision_resnet18")
    processes.assert_refused(
        result, "model.dropout=0.0", "resnet_sweep.models.torchvision_classifier", "~model.dropout"
    )


def test_a_directory_name_with_a_nul_character_is_refused(call: Command, tmp_path: Path) -> None:
    # A shell can't pass it, but a config may contain it.
    result = call(main, *SMALL, "hydra.run.dir='a\x00b'")
    processes.assert_refused(result, r"a\x00b")
    assert not list(tmp_path.iterdir())


def test_a_flag_that_would_take_the_next_override_as_its_value_is_refused(
    call: Command, tmp_path: Path
) -> None:
    for others in ((), ("-cn", "config")):
        result = call(main, *SMALL, "-p", "seed=1", *others)
        processes.assert_refused(result, "-p", "--cfg")
        assert not list(tmp_path.iterdir())
    processes.assert_refused(call(main, "--cfg", "job", "-p", "optm"), "-p optm")
    shown = call(main, "--cfg", "job", "-p", "optim")
    assert shown.stdout.startswith("# @package optim\n")


@pytest.mark.parametrize("directory", ["run", "outputs/${now:%Y-%m-%d}/run"])
def test_an_invalid_logging_config_is_refused_and_leaves_no_files(
    call: Command, tmp_path: Path, directory: str
) -> None:
    result = call(main, *SMALL, "hydra.job_logging.version=2", f"hydra.run.dir={directory}")
    processes.assert_refused(result, "version", "2")
    assert not list(tmp_path.iterdir())


def test_a_refused_command_keeps_the_directory_of_a_run_that_is_starting(
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


def test_a_refused_command_removes_only_the_directory_that_it_made(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, record: Record) -> None:
        assert (directory / ".hydra").is_dir()
        raise ConfigError(f"{directory} is refused")

    monkeypatch.setattr(Run, "open", refuse)
    arguments = (*SMALL, "hydra.run.dir=runs/${now:%Y}")
    processes.assert_refused(call(main, *arguments), "refused")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs" / time.strftime("%Y") / ".hydra").mkdir(parents=True)
    processes.assert_refused(call(main, *arguments), f"{time.strftime('%Y')}-2")
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize("wrong", ["dry_run=true", "trainer.device=cuda:7"])
@pytest.mark.parametrize(
    "directory",
    ["keep/me", "keep/me/x/y", "keep/me/${hydra:job.name}", "keep/${now:%Y}", "keep/me/${now:%Y}"],
)
def test_a_refused_command_keeps_folders_that_existed_before(
    call: Command, tmp_path: Path, directory: str, wrong: str
) -> None:
    (tmp_path / "keep" / "me").mkdir(parents=True)
    result = call(main, *SMALL, wrong, f"hydra.run.dir={directory}")
    assert result.returncode == (0 if wrong == "dry_run=true" else 2)
    assert "Warning" not in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep", "me"]


class TestDryRun:
    def test_it_prints_the_run_and_leaves_no_files(self, call: Command, tmp_path: Path) -> None:
        result = call(main, *SMALL, "trainer.epochs=7", "trainer.max_steps=3", "dry_run=true")
        assert result.returncode == 0, result.stderr
        facts = {
            "Model": ("resnet8v2", "77,850"),
            "Data": ("digits", "1,437", "50"),
            "Recipe": ("optim sgd", "schedule cosine"),
            "Length": ("7", "12", "128", "3"),
            "Device": ("cpu", "1", "float32"),
            "Seed": ("0",),
            "Run directory": ("outputs",),
        }
        lines = dict(re.findall(r"^\s*([\w ]+): +(.*)$", result.stdout, re.MULTILINE))
        for name, values in facts.items():
            for value in values:
                assert re.search(rf"(?<![\d.,]){value}(?!\d|,\d)", lines[name]), (name, value)
        assert not list(tmp_path.iterdir())

    def test_it_refuses_a_run_that_cannot_be_trained(self, call: Command, tmp_path: Path) -> None:
        result = call(main, *SMALL, "dry_run=true", "trainer.device=cuda:7")
        processes.assert_refused(result, "trainer.device=cuda:7")
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "thesis.tex").touch()
        result = call(main, *SMALL, "dry_run=true", "hydra.run.dir=thesis")
        processes.assert_refused(result, "thesis.tex", "hydra.run.dir")
        assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "thesis.tex"]

    def test_it_does_not_change_an_existing_run(self, call: Command, tmp_path: Path) -> None:
        arguments = (*SMALL, "hydra.run.dir=run")
        planned = plan_run(composed(*SMALL))
        record = planned.record(ComposedConfig(composed(*SMALL), {}, [], []))
        write_plan(tmp_path / "run", record)
        before = (tmp_path / "run" / "run.json").read_bytes()
        result = call(main, *arguments, "dry_run=true")
        assert result.returncode == 0, result.stderr
        assert "pending" in result.stdout
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
        assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_an_unknown_setting_is_reported_before_a_value_that_cannot_be_resolved(
    call: Command,
) -> None:
    result = call(main, *SMALL, "zip=${nope}", "eference=1")
    processes.assert_refused(result, "eference", "reference")
    # The message has the most similar setting instead of a list of all settings.
    assert "trainer" not in result.stderr
    assert "nope" not in result.stderr


def test_a_run_whose_train_log_cannot_be_opened_finishes(command: Command, tmp_path: Path) -> None:
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    result = command(*SMALL, "trainer.max_steps=1", "trainer.batch_size=16", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert "/run/train.log" in result.stderr
    assert result.stderr.count("\n") == 1
    assert '"state": "finished"' in (tmp_path / "run" / "run.json").read_text()


def test_a_long_error_message_is_shortened_in_the_middle() -> None:
    shortened = format_error(ConfigError(f"{'a' * 10**6} isn't known, but b is"))
    assert len(shortened) < MAX_LENGTH + 10
    assert shortened.startswith("aaa")
    assert shortened.endswith("known, but b is")


def test_memory_bytes_returns_a_plausible_size() -> None:
    assert 2**28 < memory_bytes() < 2**60


def test_environment_variables_are_not_written_into_the_run_directory(
    command: Command, tmp_path: Path
) -> None:
    secret = "hunter2-0123456789"
    result = command(
        *SMALL,
        "trainer.max_steps=1",
        "trainer.batch_size=16",
        "hydra.run.dir=run",
        API_TOKEN=secret,
        MLFLOW_TRACKING_PASSWORD=secret,
        HYDRA_SECRET=secret,
    )
    assert result.returncode == 0, result.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"run.json", "hydra.yaml", "train.log"} <= {path.name for path in files}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in result.stdout + result.stderr


def test_a_refused_command_with_a_closed_stderr_fails_and_leaves_no_files(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = processes.run(tmp_path, "experiment=quickstart", "optim.lr=-1", stderr=writer)
    os.close(writer)
    assert result.returncode
    assert not list(tmp_path.iterdir())
