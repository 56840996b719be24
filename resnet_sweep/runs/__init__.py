"""Run directories: record, metrics, lock, signature. Imports neither torch nor Hydra."""
