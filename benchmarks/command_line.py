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
