"""Argument parsers of the benchmarks."""

import argparse


def make_parser(name: str, docstring: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark.

    Args:
        name: of the module in this folder.
        docstring: of the module. Its first line becomes the description in `--help`.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=docstring.splitlines()[0]
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument for the overrides of all runs."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="an override of all runs, for example data=digits",
    )
