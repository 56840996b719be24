"""The reference pages list what the code and the configs have."""

import argparse
import contextlib
import csv
import importlib.util
import io
import json
import pkgutil
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest
import yaml
from conftest import ROOT
from hydra.core.config_store import ConfigStore
from run_directories import write_run
from small_run import CONF, choices

import resnet_sweep
from resnet_sweep.cli import SUBCOMMANDS
from resnet_sweep.cli.train import FAILED, REFUSED
from resnet_sweep.compare.objective import OBJECTIVES, Objective
from resnet_sweep.runs.metrics import COLUMNS, LayerNorms
from resnet_sweep.runs.record import BestEpoch, FinalEpoch, Heartbeat, Record, State
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.studies.search_space import SearchSpace
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.manifest import JobEntry, Manifest, write_results
from resnet_sweep.training.signals import INTERRUPTED, TERMINATED

REFERENCE = ROOT / "docs" / "reference"
GENERATOR = ROOT / "docs" / "generate_reference.py"
SETTINGS = (REFERENCE / "settings.md").read_text(encoding="utf-8")
COMMANDS = (REFERENCE / "commands.md").read_text(encoding="utf-8")
FILES = (REFERENCE / "files.md").read_text(encoding="utf-8")
# Files for Hydra itself, without settings of a run.
OF_HYDRA = {"help", "hydra_logging", "job_logging"}
CONFIGS = sorted(path for path in CONF.glob("**/*.yaml") if not OF_HYDRA.intersection(path.parts))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """Return docs/generate_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(document: str, title: str) -> str:
    """Return the part of a document under a heading, up to the next heading."""
    found = re.search(
        rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", document, re.MULTILINE | re.DOTALL
    )
    assert found, title
    return found[1]


def first_cells(text: str) -> list[str]:
    """Return the code in the first cell of each row of the tables in a text."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def keys(content: dict, prefix: str = "") -> list[str]:
    """Return the dotted names of the keys of a config."""
    found = []
    for key, value in content.items():
        if key in ("defaults", "_target_", "params"):
            continue
        if isinstance(value, dict) and value:
            found += keys(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


def test_generated_pages_are_up_to_date(generator: ModuleType) -> None:
    for path, text in generator.pages().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"docs/reference/{path.name} is out of date: run python docs/generate_reference.py"
        )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_key_of_a_config_is_in_its_section_with_its_meaning(path: Path) -> None:
    group = path.parent.relative_to(CONF).as_posix()
    title = "Settings without a group" if group == "." else f"{group}={path.stem}"
    text = section(SETTINGS, title)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    is_preset = group in ("experiment", "debug", "sweep")
    prefix = "" if group == "." or is_preset else f"{group.replace('/', '.')}."
    for key in keys(content, prefix):
        row = re.search(rf"^\| `{re.escape(key)}` \|.*\| (.*) \|$", text, re.MULTILINE)
        # The class of Hydra's callback has no other keys.
        assert row or key.startswith("hydra.callbacks."), key
        assert row is None or is_preset or row[1].strip(), f"{key} has no comment in {path.name}"
    for key, values in (content.get("hydra", {}).get("sweeper", {}).get("params") or {}).items():
        assert f"| `{key}` | `{values}` |" in text


def test_every_choice_is_in_the_table_of_groups() -> None:
    table = SETTINGS.partition("| group |")[2].partition("\n\n")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    assert groups <= {*rows}
    for choice in choices():
        group, _, name = choice.partition("=")
        assert f"[`{name}`]" in rows[group], choice


def test_every_sampler_is_listed() -> None:
    import_module("hydra_plugins.hydra_optuna_sweeper.config")
    known = {
        name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/sweeper/sampler")
    }
    # Optuna has removed it.
    assert {*first_cells(section(SETTINGS, "hydra/sweeper/sampler"))} == known - {"motpe"}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_argument_of_a_subcommand_is_in_its_section(name: str) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"resnet_sweep.cli.{name}").add_arguments(parser)
    text = section(COMMANDS, name)
    listed = first_cells(text)
    usage = re.sub(r"\s+", " ", parser.format_usage())
    for option in {*re.findall(r"--[a-z-]+", usage)}:
        assert any(entry.split()[0] == option for entry in listed), option
        assert option in text.partition("```text")[2].partition("```")[0] or "-o" in usage
    assert f"python -m resnet_sweep {name}" in text


def test_every_variable_that_the_package_reads_is_listed() -> None:
    text = section(COMMANDS, "Environment variables")
    pattern = r'environ(?:ment)?(?:\.get\(|\.setdefault\(|\[)"(\w+)"|^TRUSTED = "(\w+)"'
    found = {
        one or other
        for path in (ROOT / "resnet_sweep").glob("**/*.py")
        for one, other in re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    # Hydra's and the shell's, which the program sets or reads for itself.
    found -= {"HYDRA_FULL_ERROR", "COMP_LINE"}
    assert {"RESNET_SWEEP_DATA", "RESNET_SWEEP_TRUSTED_PACKAGES", "CXX"} <= found
    for name in found:
        assert f"`{name}`" in text, name


def test_the_exit_statuses_are_listed() -> None:
    table = section(COMMANDS, "Exit statuses").partition("`diff`")[0]
    statuses = [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert statuses == [0, FAILED, REFUSED, TERMINATED, INTERRUPTED]


def test_the_columns_of_metrics_are_listed() -> None:
    assert first_cells(section(FILES, "metrics.csv")) == list(COLUMNS)
    columns = ["epoch", "layer", *LayerNorms._fields[1:]]
    assert first_cells(section(FILES, "layer_norms.csv")) == columns


def test_the_states_are_listed() -> None:
    assert {*first_cells(section(FILES, "States"))} == {*get_args(State)}


def test_the_keys_of_a_record_are_listed(tmp_path: Path) -> None:
    text = section(FILES, "run.json")
    Record("0" * 16, config={"trainer": {"epochs": 1}}).write(tmp_path)
    written = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert {*first_cells(text)} == {*written} == {field.name for field in fields(Record)}
    rows = {name: line for line in text.splitlines() for name in first_cells(f"{line}\n")}
    parts = {"best": BestEpoch, "final": FinalEpoch, "heartbeat": Heartbeat}
    for name, part in parts.items():
        for key in part.__annotations__:
            assert f"`{key}`" in rows[name], f"{name}.{key}"


def test_the_keys_of_a_manifest_are_listed() -> None:
    listed = first_cells(section(FILES, "sweep.json"))
    assert {*listed} == {*Manifest.model_fields, *JobEntry.model_fields}


def test_the_columns_of_the_results_of_a_sweep_are_listed(tmp_path: Path) -> None:
    jobs = []
    for number, rate in enumerate((0.1, 0.2)):
        directory = write_run(tmp_path / str(number), {"optim.lr": rate})
        jobs.append(Job(number, Record.read(directory), directory))
    write_results(tmp_path, jobs, Objective("val_loss"))
    names = first_cells(section(FILES, "results.csv"))
    *columns, objective, setting, mean, sd, n = header(tmp_path)
    assert (objective, setting) == ("val_loss", "optim.lr")
    assert names == [*columns, mean, sd, n]


def test_the_columns_of_the_results_of_a_study_are_listed(tmp_path: Path) -> None:
    queue = SimpleNamespace(directory=tmp_path, trials=list)
    plan = SimpleNamespace(objectives=[Objective()], space=SearchSpace(["optim.lr=0.1,0.2"]))
    StudyResults(queue, plan, {}).save(now=True)
    *columns, value, parameter, sd, n, reason = header(tmp_path)
    assert (value, parameter) == ("value", "optim.lr")
    page = FILES.partition("## Study directory")[2].partition("| column of `results.csv` |")[2]
    rows = page.partition("\n\n")[0]
    assert first_cells(rows) == [*columns, "value", "value_NAME", sd, n, reason]


def header(directory: Path) -> list[str]:
    """Return the names of the columns of results.csv in a directory."""
    with (directory / "results.csv").open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file))


def test_the_objectives_are_listed() -> None:
    page = (REFERENCE / "experiments.md").read_text(encoding="utf-8")
    assert first_cells(section(page, "Objectives")) == list(OBJECTIVES)


def test_the_python_example_prints_what_is_shown() -> None:
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    source, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "python.md", "exec"), {})
    assert printed.getvalue() == shown


def test_the_names_on_the_python_page_exist(tmp_path: Path) -> None:
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(resnet_sweep\.[\w.]+)(?:\([^`]*\))?` \|", page, re.MULTILINE)
    assert len(names) > 5
    for name in names:
        assert pkgutil.resolve_name(name)
    runs = resnet_sweep.load_runs(write_run(tmp_path / "run"))
    (tmp_path / "sweep.json").write_text('{"jobs": [{"directory": "run"}]}')
    described = {
        "Run": runs[0],
        "Runs": runs,
        "Sweep": resnet_sweep.Sweep(tmp_path),
        "Ranking": runs.rank(),
        "Diff": resnet_sweep.diff(runs[0], runs[0]),
    }
    for title, instance in described.items():
        rows = re.findall(r"^\| (`.*?) \|", section(page, title), re.MULTILINE)
        attributes = [name for row in rows for name in re.findall(r"`(\w+)", row)]
        assert len(attributes) > 4
        for name in attributes:
            assert hasattr(instance, name), f"{title}.{name}"
    for row in re.findall(r"^\| `(resnet_sweep\.\w+)` \| (.*) \|$", page, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[1].partition(":")[0]):
            assert hasattr(import_module(row[0]), name), name
