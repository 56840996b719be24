"""From overrides to a planned run, and from a run directory to its trained network."""

# The groups that describe one object, with the arguments that the package itself passes to it.
OBJECT_GROUPS: dict[str, set[str]] = {
    "model": {"num_classes", "in_channels", "pretrained"},
    "data": set(),
    "optim": {"params"},
    "schedule": {"lr", "epochs", "steps_per_epoch"},
    "loss": set(),
    "trainer": set(),
}
# The groups that describe named objects, with the arguments that the package passes to those that
# have such a parameter.
COLLECTION_GROUPS = {
    "augmentation": {"num_classes", "mean"},
    "logger": {"folder"},
    "metric": {"num_classes"},
}
# Groups whose choices set values in other groups. The composed config doesn't contain them.
PRESET_GROUPS = ("experiment", "debug", "sweep")
