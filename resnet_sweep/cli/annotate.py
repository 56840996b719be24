"""Add tags and a note to runs, in any state.

The subcommand runs and the report show them. A tag is a word. The annotations are in
RUN/annotations.json, and don't change the run or its signature. Without an option, the annotations
are printed.
"""

import argparse

from resnet_sweep.compare.collection import LOGGED_RUNS, resolve_run
from resnet_sweep.compare.format import safe_text
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.annotations import Annotations, annotate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `annotate`."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory")
    parser.add_argument(
        "--tag", metavar="NAME", action="append", default=[], help="add a tag; can be repeated"
    )
    parser.add_argument(
        "--untag", metavar="NAME", action="append", default=[], help="remove a tag; can be repeated"
    )
    parser.add_argument("--note", metavar="TEXT", help="replace the note; '' removes it")


def run(arguments: argparse.Namespace) -> None:
    """Change the annotations of runs, and print them."""
    directories = [resolve_run(name) for name in arguments.runs]
    for name, directory in zip(arguments.runs, directories, strict=True):
        if directory.parent == LOGGED_RUNS:
            raise ConfigError(f"{name} is part of this package: name a run directory")
    changes = {"add": arguments.tag, "remove": arguments.untag, "note": arguments.note}
    # All changes are checked before the first one is written.
    found = [Annotations.read(directory).changed(**changes) for directory in directories]
    if arguments.tag or arguments.untag or arguments.note is not None:
        found = [annotate(directory, **changes) for directory in directories]
    for name, annotations in zip(arguments.runs, found, strict=True):
        print(f"  {safe_text(name)}")
        print(f"    tags: {safe_text(', '.join(annotations.tags) or 'none')}")
        print(f"    note: {safe_text(annotations.note or 'none')}")
