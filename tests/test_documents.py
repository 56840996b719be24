"""What the documents name exists."""

import importlib.util
import re
import shlex

import pytest
from conftest import ROOT
from small_run import CONF, choices, composed

from benchmarks import recommendations
from resnet_sweep.composition.check import check_config
from resnet_sweep.runs.metrics import COLUMNS
from resnet_sweep.runs.run import FIGURES

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
# What the training log recommends to watch, and what a run, or a command, has of it.
MONITORED = {
    "learning rate": ("lr", "metrics.csv", "step/lr"),
    "gradient norms": ("grad_norm", "metrics.csv", "step/grad_norm", "layers.csv"),
    "update norms": ("layers.csv",),
    "time": ("seconds", "images_per_second", "metrics.csv"),
    "activation maps": ("resnet_sweep.features",),
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
        if name.startswith("resnet_sweep."):
            assert importlib.util.find_spec(name)
        elif "/" not in name:
            assert name in {*COLUMNS, *FIGURES}


def test_the_readme_names_every_choice_and_a_document_every_preset() -> None:
    rows = {line.split("`")[1]: line for line in README.splitlines() if line.startswith("| `")}
    presets = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for choice in choices():
        group, _, name = choice.partition("=")
        assert f"`{name}`" in (presets if group in ("experiment", "sweep") else rows[group]), choice


def test_what_documents_link_to_is_there() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_group_is_in_the_readme() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    for group in groups:
        assert f"| `{group}` |" in README
