"""The Python API does what the command line does, and leaves the process as it was."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from processes import clean_environment
from run_directories import write_run
from small_run import composed, without_times
from small_sweep import TINY, assert_same_runs, job_faults, write_faulty_transform

import resnet_sweep
from resnet_sweep import ConfigError, RunFailed
from resnet_sweep.__main__ import main
from resnet_sweep.data import Digits
from resnet_sweep.models import ResNet
from resnet_sweep.request import own_hydra
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint

# Requests, of which each is wrong in another way.
WRONG = [
    ["modle=resnet8v2"],
    ["model=resnet8"],
    ["optim.lr=-1"],
    ["optim.lrr=1"],
    ["seed=0,1"],
    ["hydra.run.dir="],
    ["hydra/sweeper=basic"],
    ["trainer.batch_size=1000", "data.limit_train=10", "experiment=quickstart"],
    ["model._target_=os.system"],
    ["optim.lr=1", "seed"],
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> resnet_sweep.Run:
    """Train a small run once, and return it."""
    folder = tmp_path_factory.mktemp("trained")
    return resnet_sweep.train(TINY, directory=folder / "run")


def program(text: str) -> subprocess.CompletedProcess:
    """Run a Python program in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", text],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_import_and_the_comparison_of_runs_load_neither_torch_nor_hydra() -> None:
    first = "import sys, json, resnet_sweep as api; names = dir(api); "
    use = "api.load_runs('logged_run_1').best(); api.diff('logged_run_1', 'logged_run_2'); "
    show = "print(json.dumps([*{name.split('.')[0] for name in sys.modules}]))"
    imported, used = (json.loads(program(first + step + show).stdout) for step in ("", use))
    assert not {"torch", "hydra", "numpy", "pydantic", "rich"} & {*imported}
    assert "pydantic" in used
    assert not {"torch", "hydra"} & {*used}


def test_every_public_name_exists_and_is_documented() -> None:
    documented = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    for name in resnet_sweep.__all__:
        assert getattr(resnet_sweep, name).__doc__, name
        assert f"`{name}" in documented, name
    with pytest.raises(AttributeError):
        resnet_sweep.trian  # noqa: B018


def test_train_gives_the_run_of_the_command_line(call: Command, tmp_path: Path) -> None:
    assert call(main, *TINY, "hydra.run.dir=command").returncode == 0
    run = resnet_sweep.train(TINY, directory="python")
    command = resnet_sweep.load_run("command")
    assert run.state == "finished"
    assert not resnet_sweep.diff(run, command)
    assert run.record.signature == command.record.signature
    assert run.record.overrides == command.record.overrides == [*TINY]
    assert without_times(read_metrics(tmp_path / "python")) == without_times(
        read_metrics(tmp_path / "command")
    )
    for name in (BEST, LAST):
        ours, theirs = (
            read_checkpoint(tmp_path / folder / "checkpoints" / name)["model"]
            for folder in ("python", "command")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert {path.relative_to("python") for path in Path("python").rglob("*")} == {
        path.relative_to("command") for path in Path("command").rglob("*")
    }


def test_a_run_that_has_ended_is_returned_and_not_trained_again(trained: resnet_sweep.Run) -> None:
    before = (trained.directory / "run.json").read_bytes()
    again = resnet_sweep.train(TINY, directory=trained.directory)
    assert again.record == trained.record
    assert (trained.directory / "run.json").read_bytes() == before


def test_training_leaves_the_state_of_the_process_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook", "--flag"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def state() -> list[object]:
        log = logging.getLogger()
        variables = {name for name in os.environ if name.startswith(("HYDRA", "RESNET"))}
        random = torch.random.get_rng_state().tolist()
        process = [sys.argv[:], os.getcwd(), torch.get_num_threads(), random, variables]
        return [*process, log.handlers[:], log.level, HydraConfig.instance().cfg]

    with initialize_config_module("resnet_sweep.conf"):
        loader, before = GlobalHydra.instance().config_loader(), state()
        resnet_sweep.train([*TINY, "hydra.job.chdir=true"])
        resnet_sweep.compose(TINY)
        with pytest.raises(ConfigError):
            resnet_sweep.train(["modle=x"])
        assert state() == before
        assert GlobalHydra.instance().config_loader() is loader


@pytest.mark.parametrize("overrides", WRONG, ids=" ".join)
def test_a_wrong_request_raises_the_sentence_of_the_command_line(
    overrides: list[str], call: Command, tmp_path: Path
) -> None:
    result = call(main, *overrides)
    assert result.returncode == 2
    with pytest.raises(ConfigError) as refusal:
        resnet_sweep.train(overrides)
    assert result.stderr == f"error: {refusal.value}\n"
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        ("seed=1", "list"),
        ({"seed": 1}, "list"),
        ([1], "1"),
        (["--multirun"], "--multirun"),
        (["hydra.mode=MULTIRUN"], "hydra.mode"),
        (["replicates=2"], "sweep()"),
        (["sweep=recommended"], "sweep()"),
        ([*TINY, "dry_run=true"], "dry_run"),
    ],
)
def test_what_only_the_command_line_can_do_is_refused(
    overrides: list[str], fact: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf".*{fact.replace('(', '.').replace(')', '.')}"):
        resnet_sweep.train(overrides)
    assert not [*tmp_path.iterdir()]


def test_compose_returns_the_resolved_config(tmp_path: Path) -> None:
    overrides = ["experiment=cutmix", "optim.lr=0.3", "trainer.epochs=7"]
    assert resnet_sweep.compose(overrides) == composed(*overrides)
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    (tmp_path / "mine" / "optim" / "own.yaml").write_text("_target_: torch.optim.SGD\nlr: 3.5\n")
    assert resnet_sweep.compose(["optim=own"], config_dir="mine")["optim"]["lr"] == 3.5


def test_a_failed_run_raises_its_error_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in write_faulty_transform(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(tmp_path)
    target = "+augmentation.mine._target_=faulty.Faulty"
    with pytest.raises(RunFailed, match="this one is broken"):
        resnet_sweep.train([*TINY, target, "+augmentation.mine.by=error"], directory="failed")
    assert resnet_sweep.load_run("failed").state == "failed"

    with pytest.raises(KeyboardInterrupt):
        resnet_sweep.train([*TINY, target, "+augmentation.mine.by=SIGINT"], directory="stopped")
    assert resnet_sweep.load_run("stopped").state == "interrupted"
    resumed = resnet_sweep.train(
        [*TINY, target, "+augmentation.mine.by=SIGINT"], directory="stopped"
    )
    assert resumed.state == "finished"

    sweep = resnet_sweep.sweep([*TINY, *job_faults("error", "none")])
    assert [run.state for run in sweep.runs] == ["failed", "finished"]
    (tmp_path / "SIGINT").unlink()
    with pytest.raises(KeyboardInterrupt):
        faults = [*job_faults("SIGINT", "none"), "reuse=false"]
        resnet_sweep.sweep([*TINY, *faults], directory="interrupted")
    states = [run.state for run in resnet_sweep.Sweep("interrupted").runs]
    assert states == ["interrupted", "pending"]


def test_a_run_that_diverges_is_returned() -> None:
    run = resnet_sweep.train([*TINY, "optim.lr=1e20"])
    assert run.state == "diverged"
    with pytest.raises(ConfigError, match="complete"):
        resnet_sweep.load_runs().best()


def test_sweep_gives_the_runs_of_the_command_line(call: Command, tmp_path: Path) -> None:
    overrides = [*TINY, "optim.lr=0.1,0.05", "baseline=optim.lr == 0.1", "reuse=false"]
    assert call(main, "--multirun", *overrides, "hydra.sweep.dir=command").returncode == 0
    sweep = resnet_sweep.sweep(overrides, directory="python")
    assert_same_runs(tmp_path / "command", tmp_path / "python")
    assert [run.settings["optim.lr"] for run in sweep.runs] == [0.1, 0.05]
    assert sweep.table.baseline is not None
    assert sweep.table.baseline.runs[0].settings["optim.lr"] == 0.1
    best = max(sweep.runs, key=lambda run: run.best_accuracy)
    assert sweep.best().best_accuracy == best.best_accuracy
    assert resnet_sweep.Sweep("command").best().settings == sweep.best().settings
    reused = resnet_sweep.sweep([*TINY, "optim.lr=0.2,0.05"], directory="multirun/reuses")
    assert [run.settings["optim.lr"] for run in reused.runs] == [0.2, 0.05]


def test_sweep_works_on_a_study() -> None:
    space = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optim.lr=interval(0.01,0.3)")
    study = resnet_sweep.sweep([*TINY, *space], directory="study")
    assert len(study.runs) == 2
    assert study.best() in [*study.runs]


def test_a_second_request_is_refused_while_one_is_carried_out() -> None:
    with own_hydra(), pytest.raises(ConfigError, match="already"):
        resnet_sweep.compose(TINY)
    assert resnet_sweep.compose(TINY)["seed"] == 0


def test_another_thread_than_the_main_one_can_train() -> None:
    found: list[object] = []

    def work() -> None:
        found.append(resnet_sweep.train(TINY).state)
        found.append(resnet_sweep.sweep([*TINY, "seed=0,1"]).runs[1].state)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["finished", "finished"]


def test_predict_returns_the_probabilities_of_the_best_weights_without_the_data(
    trained: resnet_sweep.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Digits().load(0)
    images = dataset.test.images[dataset.test.indices][:300]
    monkeypatch.setattr(Digits, "load", None)
    model = ResNet(10, widths=[16, 32, 64], blocks=[1, 1, 1], strides=[1, 2, 2]).eval()
    path = trained.directory / "checkpoints" / BEST
    model.load_state_dict(read_checkpoint(path)["model"])
    mean, std = (np.array(values)[:, None, None] for values in (dataset.mean, dataset.std))
    normalized = torch.from_numpy(((images / 255 - mean) / std).astype(np.float32))
    with torch.no_grad():
        expected = model(normalized).softmax(1).numpy()

    found = trained.predict(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.array_equal(trained.predict(images.transpose(0, 2, 3, 1)), found)
    assert np.array_equal(trained.predict(torch.from_numpy(images[:0].copy())), found[:0])

    network = trained.load_model()
    assert network.data.classes == [str(digit) for digit in range(10)]
    assert network.epoch == trained.record.best["epoch"]


def test_the_page_on_trained_networks_shows_code_that_works(
    trained: resnet_sweep.Run, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "use_a_network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(trained.directory, tmp_path / "outputs" / "DATE" / "TIME")
    Image.new("L", (20, 10), 77).save("photo.png")
    shape = trained.load_model().data.image_shape
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    names: dict[str, Any] = {"images": images}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert names["logits"].softmax(1).detach().numpy() == pytest.approx(trained.predict(images))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 32, 32)),
        np.zeros((3, 32, 32), np.uint8),
        np.zeros((2, 1, 32, 32), np.uint8),
        np.zeros((2, 32), np.uint8),
        "text",
    ],
    ids=lambda images: f"{getattr(images, 'dtype', '')}{np.shape(images)}",
)
def test_images_of_another_kind_are_refused(trained: resnet_sweep.Run, images: object) -> None:
    with pytest.raises(ConfigError, match=r"uint8|32"):
        trained.predict(images)


def test_a_logged_run_has_no_network() -> None:
    with pytest.raises(ConfigError, match="logged_run_1"):
        resnet_sweep.load_run("logged_run_1").load_model()


class TestRuns:
    @pytest.fixture
    def runs(self, tmp_path: Path) -> resnet_sweep.Runs:
        for number, (lr, accuracy) in enumerate([(0.1, 50.0), (0.2, 70.0), (0.4, 60.0)]):
            write_run(tmp_path / "runs" / str(number), {"optim.lr": lr}, accuracy)
        broken = write_run(tmp_path / "runs" / "broken")
        (broken / "run.json").write_text("{")
        return resnet_sweep.load_runs("runs")

    def test_runs_are_a_sequence_with_the_broken_ones_apart(self, runs: resnet_sweep.Runs) -> None:
        assert len(runs) == 3
        assert [run.name for run in runs.broken] == ["runs/broken"]
        assert isinstance(runs[:2], resnet_sweep.Runs)
        assert runs[:2][1] is runs[1]
        assert runs[0] in runs

    def test_the_best_run_has_the_highest_accuracy(self, runs: resnet_sweep.Runs) -> None:
        assert runs.best() is max(runs, key=lambda run: run.best_accuracy)
        with pytest.raises(ConfigError, match="complete"):
            runs[:0].best()
        with pytest.raises(ConfigError, match="nonsense"):
            runs.best("nonsense")

    def test_a_condition_and_a_function_filter_alike(self, runs: resnet_sweep.Runs) -> None:
        found = runs.filter("optim.lr > 0.15")
        assert [*found] == [*runs.filter(lambda run: run.settings["optim.lr"] > 0.15)]
        assert len(found) == 2
        for wrong in ("optim.lrr > 1", "optim.lr >", "3"):
            with pytest.raises(ConfigError):
                runs.filter(wrong)

    def test_a_frame_has_the_outcomes_and_the_settings_that_differ(
        self, runs: resnet_sweep.Runs
    ) -> None:
        frame = runs.to_frame()
        assert frame["run"].tolist() == [run.name for run in runs]
        assert frame["best"].tolist() == [run.best_accuracy for run in runs]
        assert frame["optim.lr"].tolist() == [run.settings["optim.lr"] for run in runs]
        assert frame["best"].dtype == frame["optim.lr"].dtype == np.float64
        assert [time.timestamp() for time in frame["started"]] == [run.started for run in runs]
        assert "trainer.epochs" not in frame
        assert runs.to_frame(all_settings=True)["trainer.epochs"].nunique() == 1
        assert len(runs[:0].to_frame()) == 0

    def test_a_baseline_that_no_variant_meets_is_refused(self, tmp_path: Path) -> None:
        for lr in (0.1, 0.2):
            write_run(tmp_path / str(lr), {"optim.lr": lr})
        runs = resnet_sweep.load_runs(tmp_path)
        assert runs.rank(baseline="optim.lr == 0.1").baseline is not None
        for condition, count in (("optim.lr == 3", "none"), ("best > 0", "2")):
            with pytest.raises(ConfigError) as error:
                runs.rank(baseline=condition)
            assert condition in str(error.value)
            assert count in str(error.value)

    def test_html_tables_escape_what_a_run_directory_contains(self, tmp_path: Path) -> None:
        script = "<script>alert(1)</script>"
        for number, lr in enumerate((0.1, 0.2)):
            settings = {"optim.lr": lr, "optim.text": script * number}
            names = {"model": script, "optim": script * number}
            write_run(
                tmp_path / "<b>" / str(number), settings, choices=names, reason=script, host=script
            )
        runs = resnet_sweep.load_runs("<b>")
        shown = [runs, runs[0], resnet_sweep.diff(*runs), runs.rank(baseline="optim.lr == 0.1")]
        for found in shown:
            html = found._repr_html_()
            assert "<table>" in html
            assert "<script>" not in html
            assert "<b>" not in html
        assert "&lt;b&gt;" in runs._repr_html_()


def test_a_diff_is_true_if_the_runs_differ() -> None:
    different = resnet_sweep.diff("logged_run_1", "logged_run_2")
    assert different
    assert different.settings == {"seed": [0, 1]}
    assert different.outcomes["best accuracy"] == [69.85, 74.86]
    assert not resnet_sweep.diff("logged_run_1", resnet_sweep.load_run("logged_run_1"))
    with pytest.raises(ConfigError, match="two"):
        resnet_sweep.diff("logged_run_1")


@pytest.mark.slow
def test_a_script_without_a_guard_can_use_the_pool(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import resnet_sweep\nprint('started')\noverrides = {TINY!r}\n"
        "sweep = resnet_sweep.sweep([*overrides, 'seed=0,1'], launcher='pool')\n"
        "print([run.state for run in sweep.runs])\n"
    )
    result = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("started\n") == 1
    assert result.stdout.endswith("['finished', 'finished']\n")


@pytest.mark.slow
def test_the_types_of_a_script_are_checked(tmp_path: Path) -> None:
    script = """
import resnet_sweep

run: resnet_sweep.Run = resnet_sweep.train(["seed=1"], directory="x")
accuracy: float | None = run.best_accuracy
chosen = resnet_sweep.load_runs(["a"]).filter("seed == 1").filter(lambda run: run.state == "failed")
best: resnet_sweep.Run = chosen[:3].best()
same: bool = resnet_sweep.diff(run, "logged_run_1").same
variants: int = len(resnet_sweep.sweep(["seed=0,1"], launcher="pool").table.groups)
lr: object = resnet_sweep.compose()["optim"]["lr"]
"""
    (tmp_path / "right.py").write_text(script)
    wrong = ("resnet_sweep.train([1])", "resnet_sweep.trian([])", "resnet_sweep.diff(1, 2)")
    (tmp_path / "wrong.py").write_text("import resnet_sweep\n" + "\n".join(wrong) + "\n")
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", tmp_path / "right.py", tmp_path / "wrong.py"],
        cwd=ROOT,
        env=clean_environment() | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in result.stdout.splitlines() if ": error:" in line]
    assert [Path(line.split(":")[0]).name for line in lines] == ["wrong.py"] * 4, result.stdout
