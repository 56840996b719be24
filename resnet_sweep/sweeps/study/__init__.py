"""Studies: searches with Optuna, by any number of workers, with pruning."""
