"""Run directories: record, metrics, lock, signature. Neither torch nor Hydra is imported."""
