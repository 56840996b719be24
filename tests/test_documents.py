"""What the documents name exists."""

import re
import shlex

import pytest
from conftest import ROOT
from small_run import CONF, choices, composed

from benchmarks import recommendations
from resnet_sweep.composition.check import check_config

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


@pytest.mark.parametrize("row", ROWS, ids=recommendations.override_of)
def test_every_recommendation_is_an_override_and_was_run(row: str) -> None:
    words = shlex.split(f"{recommendations.SETTING} {recommendations.override_of(row)}")
    check_config(composed(*words))
    assert re.search(r"\d+\.\d+%", recommendations.cells(row)[3]), row


@pytest.mark.parametrize("item", ITEMS)
def test_every_recommended_item_has_its_row(item: str) -> None:
    assert any(recommendations.override_of(row).startswith(ITEMS[item]) for row in ROWS)


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
