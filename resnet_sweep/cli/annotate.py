"""Give runs tags and a note, which `runs` and the report show.

They are written to RUN/annotation.json. They don't change what is trained.
"""

import argparse
from pathlib import Path

from resnet_sweep.compare.collection import LOGGED_RUNS, read_run
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.annotation import MAX_NOTE, MAX_TAGS, Annotation, is_tag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `annotate`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory")
    parser.add_argument(
        "--tag",
        metavar="NAME",
        action="append",
        default=[],
        help="add a tag of letters, digits, and the characters _ . + -; can be repeated",
    )
    parser.add_argument(
        "--remove-tag",
        metavar="NAME",
        action="append",
        default=[],
        help="remove a tag; can be repeated",
    )
    parser.add_argument(
        "--note", metavar="TEXT", help="replace the note; an empty TEXT removes the note"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the annotations of all runs, and print them."""
    for tag in arguments.tag:
        if not is_tag(tag):
            raise ConfigError(
                f"--tag {safe_text(tag)} isn't a tag: use 1 to 40 letters, digits, or the "
                "characters _ . + -"
            )
    note = arguments.note
    if note is not None and len(note) > MAX_NOTE:
        raise ConfigError(
            f"--note has {len(note)} characters: use at most {MAX_NOTE}, or write a longer text to "
            "a file in the run directory"
        )
    if note is None and not (arguments.tag or arguments.remove_tag):
        raise ConfigError("annotate needs something to write: give --tag, --remove-tag or --note")
    changed = [_change(read_run(path), arguments) for path in arguments.runs]
    for directory, annotation in changed:
        try:
            annotation.write(directory)
        except OSError as error:
            raise ConfigError(
                f"{safe_text(str(directory))} can't be written to ({error.strerror}): make it "
                "writable"
            ) from error
        tags = ", ".join(annotation.tags) or "no tags"
        text = f"{safe_text(str(directory))}: {tags}"
        if annotation.note:
            text += f'; "{safe_text(annotation.note)}"'
        console.print(text, markup=False)


def _change(run: LoadedRun, arguments: argparse.Namespace) -> tuple[Path, Annotation]:
    """Return the directory of a run and its new annotation."""
    name = safe_text(run.name)
    if run.directory.parent == LOGGED_RUNS:
        raise ConfigError(f"{name} is part of the package: name a run directory instead")
    annotation = run.annotation
    for tag in arguments.remove_tag:
        if tag not in annotation.tags:
            raise ConfigError(
                f"{name} doesn't have the tag {safe_text(tag)}: its tags are "
                f"{', '.join(annotation.tags) or 'none'}"
            )
    tags = sorted({*annotation.tags, *arguments.tag} - {*arguments.remove_tag})
    if len(tags) > MAX_TAGS:
        raise ConfigError(f"{name} would have {len(tags)} tags: use at most {MAX_TAGS}")
    note = annotation.note if arguments.note is None else arguments.note
    return run.directory, Annotation(tags=tags, note=note)
