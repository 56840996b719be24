"""Analysis of trained networks: metrics on a test set, and figures of their features."""
