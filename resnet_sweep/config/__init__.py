"""From overrides to a planned run: compose, validate, instantiate, and say what is wrong."""

# The groups that describe one object, with the arguments that the program supplies to it.
OBJECT_GROUPS: dict[str, set[str]] = {
    "model": {"num_classes"},
    "data": set(),
    "optim": {"params"},
    "schedule": {"lr", "epochs", "steps_per_epoch"},
    "loss": set(),
    "trainer": set(),
}
# The groups that describe any number of objects, each under a name, with the arguments that the
# program supplies to those that take them.
COLLECTION_GROUPS = {"augmentation": {"num_classes", "mean"}, "logger": {"folder"}}
# Groups whose choices set values of other groups, and so aren't in the config themselves.
PRESET_GROUPS = ("experiment", "debug", "sweep")
