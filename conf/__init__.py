"""The config tree, as a package, so that an installed copy carries it."""
