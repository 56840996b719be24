"""From overrides to a planned run: compose, validate, instantiate, and say what is wrong."""
