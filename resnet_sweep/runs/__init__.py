"""A run as a directory: identity, record, metrics. Files only: neither torch nor Hydra."""
