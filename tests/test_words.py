"""The words of the project's texts."""

import re
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

FOLDERS = ("benchmarks", "conf", "docs", "resnet_sweep", "tests")
TYPES = {".cff", ".css", ".html", ".jinja", ".js", ".json", ".md", ".py", ".sh", ".yaml", ".yml"}
# Verbs and nouns that have a plainer equivalent, such as print, report, resume, valid or message.
AVOIDED = re.compile(
    r"\b(tells?|told|telling|heed\w*|lest|mend(ed|s)?|bur(y|ied)|whoever|whereabouts|complaints?"
    r"|goes on|gone on|go on with|went on|comes? of|came of|sound(ness|ly)?|sittings?)\b",
    re.IGNORECASE,
)
# The name of a method of Optuna's studies.
LITERAL = re.compile(r"\bstudy\.tell\(")


def texts() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in TYPES and path != Path(__file__).resolve():
                yield path


def test_the_texts_have_none_of_the_avoided_words() -> None:
    found = {
        str(path.relative_to(ROOT)): sorted({match.group() for match in AVOIDED.finditer(text)})
        for path in texts()
        if AVOIDED.search(text := LITERAL.sub("", path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_texts_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in texts()}
    assert {"README.md", "conf/config.yaml", "docs/tutorial.md", "tests/conftest.py"} <= names
    assert AVOIDED.search("What came of it is told.")
