"""The documents tell the truth."""

import re
import shlex
from pathlib import Path

import pytest
from small_run import CONF, choices, composed

from benchmarks import recommendations
from resnet_sweep.composition.check import check_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in recommendations.DOCUMENT.read_text(encoding="utf-8").splitlines()
    if recommendations.is_run(line)
]


@pytest.mark.parametrize("row", ROWS, ids=recommendations.override_of)
def test_every_recommendation_is_an_override_and_was_run(row: str) -> None:
    words = shlex.split(f"{recommendations.SETTING} {recommendations.override_of(row)}")
    check_config(composed(*words))
    assert recommendations.cells(row)[3].startswith("best "), row


def test_every_item_of_the_log_has_its_row() -> None:
    log = ROOT.parent / "shared" / "reference" / "training_logs.md"
    if not log.exists():
        pytest.skip("the training log isn't beside the clone")
    text = log.read_text(encoding="utf-8")
    section = text[text.index("### Recommendations for") : text.index("### Model Checkpoints")]
    # Each item's own word for what it recommends, and that of the table.
    words = {
        "Early Stopping": "stop around epoch 80 to 85", "dropout": "dropout 0.3",
        "weight decay": "weight decay 1e-3", "0.05": "learning rate 0.05", "plateau": "on plateau",
        "Cutout or CutMix": "CutMix", "Mixup": "Mixup", "color jittering": "color jittering",
        "attention": "attention", "block configurations": "another block",
        "progressive resizing": "progressive resizing", "label smoothing": "label smoothing",
        "warm restarts": "warm restarts", "Learning Rate Logging": "learning rate logging",
        "gradient norms": "gradient norms", "activation maps": "activation maps",
    }  # fmt: skip
    table = recommendations.DOCUMENT.read_text(encoding="utf-8")
    for item, row in words.items():
        assert item in section, item
        assert re.search(rf"^\| [^|]*{row}", table, re.MULTILINE), row
    items = re.findall(r"^ *(?:\d\.|-) ", section, re.MULTILINE)
    headings = re.findall(r"^\d\. \*\*[^:]*\*\*: *$", section, re.MULTILINE)
    assert len(items) - len(headings) == len(words)


def test_the_readme_names_every_choice_and_a_document_every_preset() -> None:
    table = README[README.index("| group | choices |") :]
    presets = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    for choice in choices():
        group, _, name = choice.partition("=")
        assert f"`{name}`" in (presets if group in ("experiment", "sweep") else table), choice


def test_what_documents_link_to_is_there() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_group_is_in_the_readme() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    for group in groups:
        assert f"| `{group}` |" in README
