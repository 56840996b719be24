"""The user's own code is part of a run's identity."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from conftest import Command
from run_directories import write_run
from small_run import config
from small_sweep import TINY

from resnet_sweep.compare.collection import read_run
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.diff_columns import diff_columns
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.own_code import own_code
from resnet_sweep.config.plan import load_planned_run, plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run
from resnet_sweep.sweeps.run_cache import RunCache

LOSS = """
from torch import nn

from .scale import FACTOR


class Scaled(nn.Module):
    def forward(self, logits, labels):
        return FACTOR * nn.functional.cross_entropy(logits, labels)
"""
TARGET = {"_target_": "mine.loss.Scaled"}
FILES = {"mine/__init__.py": "", "mine/loss.py": LOSS, "mine/scale.py": "FACTOR = 1.0\n"}

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the package `mine` and trust it; return a function that writes another file."""

    def write_file(name: str, content: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)

    for name, content in FILES.items():
        write_file(name, content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "mine")
    # Bytecode of a file that is written twice in a second would be out of date.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write_file


@pytest.fixture(autouse=True)
def forget() -> None:
    """Import the package again in every test."""
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "beside")]:
        del sys.modules[name]


def digests(target: str = "mine.loss.Scaled") -> dict[str, str]:
    return dict(own_code({"loss": {"_target_": target}}).digests)


def changes(before: dict[str, str]) -> set[str]:
    """Return the names whose digests have changed."""
    after = digests()
    return {name for name in before | after if before.get(name) != after.get(name)}


class TestDigests:
    def test_they_contain_the_module_and_what_it_imports(self, write: Write) -> None:
        write("mine/unused.py", "")
        assert digests().keys() == {f"code.{name}" for name in FILES}

    def test_no_module_is_imported_for_them(self, write: Write) -> None:
        write("mine/scale.py", "raise SystemExit")
        digests()
        assert "mine" not in sys.modules

    @pytest.mark.parametrize(
        ("imported", "files"),
        [
            ("from . import extra", {"mine/extra.py"}),
            ("from .extra import *", {"mine/extra.py"}),
            ("import mine.deep.part as part", {"mine/deep/__init__.py", "mine/deep/part.py"}),
            ("from mine.deep import part", {"mine/deep/__init__.py", "mine/deep/part.py"}),
            ("def later():\n    import beside", {"beside.py"}),
            ("import json, numpy, resnet_sweep.data", set()),
            ("from ....outside import name", set()),
            ("import nowhere", set()),
        ],
    )
    def test_every_form_of_import_is_followed(
        self, write: Write, imported: str, files: set[str]
    ) -> None:
        for name in ("mine/extra.py", "mine/deep/__init__.py", "mine/deep/part.py", "beside.py"):
            write(name, "")
        write("mine/scale.py", f"FACTOR = 1.0\n{imported}\n")
        assert digests().keys() == {f"code.{name}" for name in {*FILES, *files}}

    def test_a_class_that_a_package_exports_is_followed_to_its_module(self, write: Write) -> None:
        write("mine/__init__.py", "from mine.loss import Scaled")
        assert digests("mine.Scaled").keys() == {f"code.{name}" for name in FILES}

    def test_cyclic_imports_are_followed_once(self, write: Write) -> None:
        write("mine/scale.py", "from mine import loss\nFACTOR = 1.0")
        assert digests().keys() == {f"code.{name}" for name in FILES}

    def test_a_module_may_be_a_single_file(self, write: Write) -> None:
        write("beside.py", "class Loss: pass")
        sys.modules.pop("mine", None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "beside,mine")
            assert digests("beside.Loss").keys() == {"code.beside.py"}

    @pytest.mark.parametrize(
        ("content", "same"),
        [
            ("FACTOR = 1.0  # a comment\n\n\n", True),
            ('"""A docstring."""\n\nFACTOR = (\n    1.0\n)', True),
            ("FACTOR = 1", False),
            ("FACTOR = '1.0'", False),
            ("FACTOR = 1.0\nFACTOR = None", False),
            ("FACTOR: float = 1.0", False),
        ],
    )
    def test_they_change_with_the_code_and_not_with_its_layout(
        self, write: Write, content: str, same: bool
    ) -> None:
        before = digests()
        write("mine/scale.py", content)
        assert changes(before) == (set() if same else {"code.mine/scale.py"})

    @pytest.mark.parametrize("content", ["not Python (", "x = " + "-" * 100_000 + "1"])
    def test_a_file_that_cannot_be_parsed_is_digested_as_bytes(
        self, write: Write, content: str
    ) -> None:
        write("mine/scale.py", content)
        before = digests()
        write("mine/scale.py", f"{content} ")
        assert changes(before) == {"code.mine/scale.py"}

    def test_metrics_count(self, write: Write) -> None:
        assert own_code({"metric": {"mine": TARGET}}).digests

    def test_loggers_and_libraries_do_not_count(self, write: Write) -> None:
        assert not own_code({"logger": {"mine": TARGET}}).digests
        assert not own_code({"loss": {"_target_": "torch.nn.CrossEntropyLoss"}}).digests

    def test_every_target_in_a_config_counts(self, write: Write) -> None:
        for node in ({"a": {"part": TARGET}}, {"parts": [TARGET]}):
            assert own_code({"model": {"_target_": "torch.nn.Identity", **node}}).digests

    def test_code_without_a_file_gets_a_note(self, write: Write) -> None:
        assert not own_code({"loss": TARGET}).notes
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "nowhere")
            (note,) = own_code({"loss": {"_target_": "nowhere.Loss"}}).notes
        assert "nowhere.Loss" in note

    def test_imported_code_keeps_its_digest_until_it_is_imported_again(self, write: Write) -> None:
        """Python runs the code that it has imported, whatever the file contains."""
        plan_run(config(loss=TARGET))
        before = digests()
        write("mine/scale.py", "FACTOR = 2.0")
        assert not changes(before)
        _forget()
        assert changes(before) == {"code.mine/scale.py"}


def test_a_run_isn_t_started_if_its_code_changed_after_it_was_planned(write: Write) -> None:
    settings = config(loss=TARGET)
    planned = plan_run(settings)
    record = planned.record(ComposedConfig(settings, {}, [], []))
    assert load_planned_run(record).inputs == planned.inputs
    _forget()
    write("mine/scale.py", "FACTOR = 2.0")
    with pytest.raises(ConfigError, match=r"mine/scale\.py"):
        load_planned_run(record)


def test_a_run_with_other_code_is_refused_and_not_found_for_reuse(tmp_path: Path) -> None:
    old, new = (
        Record(
            signature=scale,
            config=config(loss=TARGET),
            precision="float32",
            inputs={"data": "d", "code.mine/loss.py": "a", "code.mine/scale.py": scale},
        )
        for scale in ("1", "2")
    )
    Run.open(tmp_path / "run", old).close("finished")
    with pytest.raises(ConfigError, match=r"mine/scale\.py") as error:
        Run.open(tmp_path / "run", new)
    assert "mine/loss.py" not in str(error.value)
    cache = RunCache([tmp_path])
    assert cache.find_complete(new.signature) is None
    assert cache.find_with_other_code(new).directory == tmp_path / "run"
    new.inputs["data"] = "e"
    assert cache.find_with_other_code(new) is None


def test_runs_are_replicates_only_if_their_code_is_the_same(tmp_path: Path) -> None:
    """A run that doesn't use a file differs in other settings."""
    old, new, other = (
        write_run(tmp_path / name, {"seed": seed}, inputs={"data": "d", **code})
        for seed, (name, code) in enumerate(
            {"old": {"code.a.py": "1"}, "new": {"code.a.py": "2"}, "other": {}}.items()
        )
    )
    runs = [read_run(path) for path in (old, new, other)]
    assert not Comparison(runs[:2]).replicates
    assert Comparison(runs[:2]).settings["code.a.py"] == ["1", "2"]
    assert diff_columns(runs).keys() == {"code.a.py", "seed"}
    assert "code.a.py" not in Comparison(runs[1:]).settings


@pytest.mark.slow
def test_other_code_is_not_resumed_or_reused(
    command: Command, write: Write, tmp_path: Path
) -> None:
    """Every command names the file that was changed."""
    environment = {"RESNET_SWEEP_TRUSTED_PACKAGES": "mine", "PYTHONPATH": str(tmp_path)}
    short = [*TINY, "trainer.epochs=1", "trainer.max_steps=1"]
    arguments = [*short, "loss._target_=mine.loss.Scaled", "~loss.label_smoothing"]
    grid = [*arguments, "--multirun", "seed=0,1"]
    study = [*arguments, "--multirun", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"]
    study += ["optim.lr=interval(0.01,0.1)"]
    used = [
        [*arguments, "hydra.run.dir=run"],
        [*grid, "hydra.sweep.dir=multirun/grid"],
        [*study, "hydra.sweep.dir=study"],
    ]
    for line in used:
        result = command(*line, **environment)
        assert result.returncode == 0, result.stderr
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    assert inputs == {"data": inputs["data"], **digests()}

    write("mine/scale.py", "FACTOR = 2.0")
    for line in used:
        processes.assert_refused(command(*line, **environment), "mine/scale.py")
    # Other settings have changed, too.
    more = [*grid, "hydra.sweep.dir=multirun/grid", "optim.lr=0.03"]
    processes.assert_refused(command(*more, **environment), "mine/scale.py", "optim.lr")
    result = command(*grid, "hydra.sweep.dir=new", "dry_run=true", **environment)
    assert "mine/scale.py" in result.stdout
    assert "reused)" not in result.stdout
    assert command(*arguments, "hydra.run.dir=other", **environment).returncode == 0
    result = command("diff", "run", "other", "--json")
    assert json.loads(result.stdout)["runs"][0]["settings"].keys() == {"code.mine/scale.py"}

    write("mine/scale.py", FILES["mine/scale.py"])
    for line in used:
        assert command(*line, **environment).returncode == 0


def test_code_that_changed_after_its_import_is_refused_until_it_is_imported_again(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The header of the bytecode has the size of the imported file.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    module = importlib.import_module("mine.loss")
    path = Path(module.__file__)
    path.write_text(path.read_text() + "\n\nCHANGED = True\n")
    with pytest.raises(ConfigError, match=r"mine/loss\.py"):
        plan_run(config(loss=TARGET))
    importlib.reload(module)
    assert plan_run(config(loss=TARGET)).inputs["code.mine/loss.py"]
