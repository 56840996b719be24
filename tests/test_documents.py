"""What the documents name exists."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from small_run import CONF, choices, composed

from benchmarks import recommendations
from resnet_sweep.cli import SUBCOMMANDS
from resnet_sweep.config.check import check_config
from resnet_sweep.runs.metrics import COLUMNS
from resnet_sweep.runs.run import METRICS_FILES

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in recommendations.DOCUMENT.read_text(encoding="utf-8").splitlines()
    if recommendations.is_run(line)
]
# For each item that the training log recommends, what starts the override that carries it out.
ITEMS = {
    "early stopping": "trainer.early_stopping.epoch=", "dropout": "model.dropout=0.3",
    "weight decay": "optim.weight_decay=1e-3", "learning rate": "optim.lr=0.05",
    "decay on plateau": "schedule=plateau", "Cutout": "augmentation=cutout",
    "CutMix": "augmentation=cutmix", "Mixup": "augmentation=mixup",
    "color jittering": "augmentation=color_jitter", "attention": "model.attention=",
    "blocks": "model.block=", "progressive resizing": "trainer.progressive_resizing=",
    "label smoothing": "loss=label_smoothing", "warm restarts": "schedule=cosine_warm_restarts",
}  # fmt: skip
ARCHITECTURE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "resnet_sweep"
# A file or a folder, and what is named in it: `jobs.py:train`, `conf/optim/`. Files that runs
# write, `.hydra/` and `multirun.yaml`, have no place in the clone.
PLACES = sorted(
    set(
        re.findall(
            r"`(\w[\w./]*/|[\w./]+\.py|\w+/[\w./]+\.(?:yaml|md))(?::([\w.]+))?`", ARCHITECTURE
        )
    )
)
FLOORS = {
    row[0].strip("`/").removesuffix(".py"): set(re.findall(r"`(\w+)`", row[2]))
    for row in re.findall(r"^\| (`[\w./]+`) \|(.*)\|([^|]*)\|$", ARCHITECTURE, re.MULTILINE)
}
SMALL_MODULES = set(["errors", "ranges", "randomness", "figures", "console", "output", "torchrun"])
# What the training log recommends to watch, and what a run, or a command, has of it.
MONITORED = {
    "learning rate": ("lr", "metrics.csv", "step/lr"),
    "gradient norms": ("grad_norm", "metrics.csv", "step/grad_norm", "layer_norms.csv"),
    "update norms": ("layer_norms.csv",),
    "time": ("seconds", "images_per_second", "metrics.csv"),
    "activation maps": ("python -m resnet_sweep features",),
}


@pytest.mark.parametrize("row", ROWS, ids=recommendations.override_of)
def test_every_recommendation_is_an_override_and_was_run(row: str) -> None:
    words = shlex.split(f"{recommendations.SETTING} {recommendations.override_of(row)}")
    check_config(composed(*words))
    assert re.search(r"\d+\.\d+%", recommendations.cells(row)[3]), row


@pytest.mark.parametrize("item", ITEMS)
def test_every_recommended_item_has_its_row(item: str) -> None:
    assert any(recommendations.override_of(row).startswith(ITEMS[item]) for row in ROWS)


@pytest.mark.parametrize("item", MONITORED)
def test_every_monitored_item_has_its_row_and_is_there(item: str) -> None:
    document = recommendations.DOCUMENT.read_text(encoding="utf-8")
    rows = [recommendations.cells(line) for line in document.splitlines() if line.startswith("| ")]
    (place,) = (row[1] for row in rows if len(row) == 2 and re.search(rf"\b{item}\b", row[0]))
    for name in MONITORED[item]:
        assert re.search(rf"(?<![\w./]){re.escape(name)}(?![\w./])", place), f"{name}: {place}"
        if name.startswith("python -m resnet_sweep "):
            assert name.split()[-1] in SUBCOMMANDS
        elif "/" not in name:
            assert name in {*COLUMNS, *METRICS_FILES}


def test_the_readme_names_every_choice_and_a_document_every_preset() -> None:
    rows = {line.split("`")[1]: line for line in README.splitlines() if line.startswith("| `")}
    presets = (ROOT / "docs" / "reference" / "experiments.md").read_text(encoding="utf-8")
    for choice in choices():
        group, _, name = choice.partition("=")
        if choice == "sweep=default":
            # It chooses the sweeper where no sweep is named.
            continue
        assert f"`{name}`" in (presets if group in ("experiment", "sweep") else rows[group]), choice


def test_what_documents_link_to_is_there() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_group_is_in_the_readme() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    for group in groups:
        assert f"| `{group}` |" in README


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Return what a module or a class defines, with the body of each class."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in body:
        match statement:
            case ast.ClassDef(name=name, body=inner):
                found[name] = inner
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = []
            case ast.Assign(targets=targets):
                found |= {target.id: [] for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize(("path", "name"), PLACES, ids=map(":".join, PLACES))
def test_what_the_architecture_names_exists(path: str, name: str) -> None:
    outside = path.startswith(("conf/", "docs/", "tests/", "resnet_sweep/"))
    place = ROOT / path if outside else PACKAGE / path
    assert place.is_dir() if path.endswith("/") else place.is_file()
    if name:
        body = ast.parse(place.read_text(encoding="utf-8")).body
        for part in name.split("."):
            found = names_in(body)
            assert part in found
            body = found[part]


def test_the_architecture_is_read_from_its_document() -> None:
    assert len([name for _, name in PLACES if name]) > 40
    assert not SMALL_MODULES & {*FLOORS}


def test_folders_import_what_the_architecture_says() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"conf"} == {*FLOORS} - {"jobs", "single_run"}
    for file in PACKAGE.glob("**/*.py"):
        floor = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if floor not in FLOORS:
            continue
        for name in imports_of(file):
            allowed = {floor, "conf", *SMALL_MODULES, *FLOORS[floor]}
            assert name in allowed, f"{file.relative_to(ROOT)} imports {name}"


def imports_of(file: Path) -> set[str]:
    """Return the parts of the package that a module imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("resnet_sweep.")}
