"""Fault injection. Each part is a function that makes trials with a seed and counts their outcomes.

`python -m benchmarks.reliability` runs all parts, and `tests/test_faults.py` a few trials of each.
"""
