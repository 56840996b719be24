"""What can go wrong, done on purpose: each part takes a count and a seed, and counts outcomes.

`python -m benchmarks.reliability` runs all parts, and `tests/test_faults.py` a few trials of each.
"""
