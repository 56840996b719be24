"""The documents name files, settings and commands that exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT
from small_run import choices, composed

from benchmarks import recommendations
from resnet_sweep.cli import SUBCOMMANDS
from resnet_sweep.config.check import check_config
from resnet_sweep.runs.metrics import COLUMNS
from resnet_sweep.runs.run import METRICS_FILES

ROWS = [
    line
    for line in recommendations.DOCUMENT.read_text(encoding="utf-8").splitlines()
    if recommendations.is_run(line)
]
# For each recommendation of the training log, the start of the override that carries it out.
ITEMS = {
    "early stopping": "trainer.early_stopping.epoch=",
    "dropout": "model.dropout=0.3",
    "weight decay": "optim.weight_decay=1e-3",
    "learning rate": "optim.lr=0.05",
    "decay on plateau": "schedule=plateau",
    "Cutout": "augmentation=cutout",
    "CutMix": "augmentation=cutmix",
    "Mixup": "augmentation=mixup",
    "color jittering": "augmentation=color_jitter",
    "attention": "model.attention=",
    "blocks": "model.block=",
    "progressive resizing": "trainer.progressive_resizing=",
    "label smoothing": "loss=label_smoothing",
    "warm restarts": "schedule=cosine_warm_restarts",
}
ARCHITECTURE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "resnet_sweep"
# Files and folders, and names in them: `jobs.py:train`, `conf/optim/`. The pattern excludes files
# that runs write: `.hydra/` and `multirun.yaml`.
REFERENCES = sorted(
    set(
        re.findall(
            r"`(\w[\w./]*/|[\w./]+\.py|\w+/[\w./]+\.(?:yaml|md))(?::([\w.]+))?`", ARCHITECTURE
        )
    )
)
IMPORTS = {
    row[0].strip("`/").removesuffix(".py"): set(re.findall(r"`(\w+)`", row[2]))
    for row in re.findall(r"^\| (`[\w./]+`) \|(.*)\|([^|]*)\|$", ARCHITECTURE, re.MULTILINE)
}
SMALL_MODULES = {
    "errors",
    "ranges",
    "randomness",
    "protocols",
    "figures",
    "console",
    "output",
    "torchrun",
}
# For each value that the training log recommends to watch, the columns, files and commands with it.
MONITORED = {
    "learning rate": ("lr", "metrics.csv", "step/lr"),
    "gradient norms": ("grad_norm", "metrics.csv", "step/grad_norm", "layer_norms.csv"),
    "update norms": ("layer_norms.csv",),
    "time": ("seconds", "images_per_second", "metrics.csv"),
    "activation maps": ("python -m resnet_sweep features",),
}


@pytest.mark.parametrize("row", ROWS, ids=recommendations.override_of)
def test_every_recommendation_has_a_valid_override_and_a_measured_accuracy(row: str) -> None:
    overrides = shlex.split(f"{recommendations.OVERRIDES} {recommendations.override_of(row)}")
    check_config(composed(*overrides))
    assert re.search(r"\d+\.\d+%", recommendations.cells(row)[3]), row


@pytest.mark.parametrize("item", ITEMS)
def test_every_recommended_item_has_a_row(item: str) -> None:
    assert any(recommendations.override_of(row).startswith(ITEMS[item]) for row in ROWS)


@pytest.mark.parametrize("item", MONITORED)
def test_every_monitored_item_has_a_row_with_places_that_exist(item: str) -> None:
    document = recommendations.DOCUMENT.read_text(encoding="utf-8")
    rows = [recommendations.cells(line) for line in document.splitlines() if line.startswith("| ")]
    (watched,) = (row[1] for row in rows if len(row) == 2 and re.search(rf"\b{item}\b", row[0]))
    for name in MONITORED[item]:
        assert re.search(rf"(?<![\w./]){re.escape(name)}(?![\w./])", watched), f"{name}: {watched}"
        if name.startswith("python -m resnet_sweep "):
            assert name.split()[-1] in SUBCOMMANDS
        elif "/" not in name:
            assert name in {*COLUMNS, *METRICS_FILES}


def test_a_document_names_every_preset() -> None:
    presets = (ROOT / "docs" / "reference" / "experiments.md").read_text(encoding="utf-8")
    for choice in [*choices("experiment"), *choices("sweep")]:
        assert f"| `{choice.partition('=')[2]}` |" in presets, choice


def test_every_relative_link_has_a_target() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def names_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Return the names that a module or a class defines. A class has its body as value."""
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in body:
        match statement:
            case ast.ClassDef(name=name, body=class_body):
                definitions[name] = class_body
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                definitions[name] = []
            case ast.Assign(targets=targets):
                definitions |= {target.id: [] for target in targets if isinstance(target, ast.Name)}
    return definitions


@pytest.mark.parametrize(("path", "name"), REFERENCES, ids=map(":".join, REFERENCES))
def test_every_name_in_the_architecture_exists(path: str, name: str) -> None:
    from_root = path.startswith(("conf/", "docs/", "tests/", "resnet_sweep/"))
    target = ROOT / path if from_root else PACKAGE / path
    assert target.is_dir() if path.endswith("/") else target.is_file()
    if name:
        body = ast.parse(target.read_text(encoding="utf-8")).body
        for part in name.split("."):
            definitions = names_in(body)
            assert part in definitions
            body = definitions[part]


def test_the_patterns_find_the_names_and_the_table_of_the_architecture() -> None:
    assert len([name for _, name in REFERENCES if name]) > 40
    assert not SMALL_MODULES & {*IMPORTS}


def test_folders_import_only_what_the_architecture_allows() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"conf"} == {*IMPORTS} - {"jobs", "request", "single_run"}
    for file in PACKAGE.glob("**/*.py"):
        folder = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if folder not in IMPORTS:
            continue
        for name in imports_of(file):
            allowed = {folder, "conf", *SMALL_MODULES, *IMPORTS[folder]}
            assert name in allowed, f"{file.relative_to(ROOT)} imports {name}"


def imports_of(file: Path) -> set[str]:
    """Return the parts of the package that a module imports anywhere in its code."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in imported if name.startswith("resnet_sweep.")}
