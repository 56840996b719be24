"""The config tree composes the recipe of the training log, and wrong values are refused."""

import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest
import yaml
from small_run import CONF, choices, composed

from resnet_sweep.config import COLLECTION_GROUPS, OBJECT_GROUPS, PRESET_GROUPS
from resnet_sweep.config.build import build_augmentation
from resnet_sweep.config.check import SETTINGS, check_config
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs.signature import INCIDENTAL, flatten, sign


def test_the_default_config_is_the_recipe_of_the_log() -> None:
    config = composed("model=resnet44v2", "optim=sgd")
    assert config == composed()
    model, optim, trainer = config["model"], config["optim"], config["trainer"]
    assert list(zip(model["widths"], model["blocks"], model["strides"], strict=True)) == [
        (32, 7, 1),
        (64, 7, 2),
        (128, 7, 2),
        (256, 3, 2),
    ]
    assert (model["block"], model["dropout"]) == ("basic_v2", 0.1)
    assert optim["_target_"] == "torch.optim.SGD"
    assert (optim["lr"], optim["momentum"], optim["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert optim["nesterov"] is False
    assert optim["decay_norm_and_bias"] is True
    assert config["schedule"]["_target_"].endswith("Cosine")
    assert (config["schedule"]["warmup_epochs"], config["schedule"]["min_lr"]) == (0, 0.0)
    assert (trainer["epochs"], trainer["batch_size"]) == (100, 128)
    assert (trainer["drop_last"], trainer["max_steps"]) == (False, None)
    assert config["loss"] == {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.0}
    assert config["augmentation"]["random_crop"]["padding"] == 4
    assert config["augmentation"]["random_flip"]["probability"] == 0.5
    assert config["data"]["mean"] == [0.5071, 0.4867, 0.4408]
    assert config["data"]["std"] == [0.2675, 0.2565, 0.2761]
    assert config["data"]["holdout"] is None


def test_the_signature_of_the_default_config_does_not_change() -> None:
    assert sign(composed(), "float32", {"data": "fingerprint"}) == "e600c171259f89a3"


@pytest.mark.parametrize("choice", choices())
def test_every_choice_is_valid_and_its_head_comment_has_a_command(choice: str) -> None:
    group, _, name = choice.partition("=")
    check_config(composed(choice))
    text = (CONF / group / f"{name}.yaml").read_text()
    first = next(line for line in text.splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ")
    assert re.search(rf"^#   python -m resnet_sweep .*\b{group}[=.]", text, re.MULTILINE)


def test_check_config_covers_every_group_and_setting() -> None:
    assert {*composed()} == {*OBJECT_GROUPS, *COLLECTION_GROUPS, *SETTINGS}
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "__pycache__"}
    assert folders == {*OBJECT_GROUPS, *COLLECTION_GROUPS, *PRESET_GROUPS}
    groups = [
        next(iter(entry))
        for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
        if isinstance(entry, dict)
    ]
    assert {name for name in groups if not name.startswith("override ")} == folders


def test_every_incidental_setting_exists() -> None:
    configs = [composed(), *map(composed, choices("data"))]
    settings = {name for config in configs for name, _ in flatten(config)}
    for name in INCIDENTAL:
        assert any(setting == name or setting.startswith(f"{name}.") for setting in settings), name


@pytest.mark.parametrize("choice", [*choices("experiment"), *choices("debug")])
def test_only_the_quickstart_preset_chooses_a_model(choice: str) -> None:
    if choice != "experiment=quickstart":
        for name in ("resnet44v2", "resnet8v2"):
            model = composed(choice, f"model={name}")["model"]
            other = composed(f"model={name}")["model"]
            for key in ("_target_", "widths", "blocks", "strides", "stem_width"):
                assert model[key] == other[key]


def operation(name: str, **settings: object) -> str:
    """Return the override that adds an augmentation with the name "it"."""
    entries = "".join(f",{key}:{value}" for key, value in settings.items())
    return f"+augmentation.it={{_target_:resnet_sweep.augmentation.{name}{entries}}}"


# An override, and the facts in its error message: the setting, the value, and the valid values. A
# fact that is listed twice occurs twice in the message: a suggestion that is also in the list of
# choices, or a value that is also a bound.
WRONG = [
    ("model.attention=sse", "model.attention", "sse", "se", "se", "eca", "null"),
    ("model.block=basic_v3", "model.block", "basic_v3", "basic_v1", "basic_v2", "basic_v2"),
    ("model.stochastic_depth=1", "model.stochastic_depth", "0", "1", "1"),
    ("model.stochastic_depth=1.5", "model.stochastic_depth", "0", "1", "1.5"),
    ("model.stem_width=0", "model.stem_width", "1", "null", "0"),
    ("model.dropout=1", "model.dropout", "0", "1", "1"),
    ("model.dropout=1.5", "model.dropout", "0", "1", "1.5"),
    ("model.dropout=-0.1", "model.dropout", "-0.1", "0", "1"),
    ("model.dropout=nan", "model.dropout", "nan"),
    ("model.widths=16", "model.widths", "16", "1"),
    ("model.widths=[16,0,3,4]", "model.widths", "[16, 0, 3, 4]", "1"),
    ("model.widths=[16]", "widths=[16]", "blocks=[1, 1, 1]", "strides=[1, 2, 2]"),
    ("model.block=basic", "model.block", "basic", "basic_v2", "basic_v2"),
    ("~model.widths", "model.widths="),
    ("optim.lr=0", "optim.lr", "0", "0"),
    ("optim.lr=-3", "optim.lr", "0", "-3"),
    ("optim.lr=inf", "optim.lr", "0", "inf"),
    ("optim.lr=fast", "optim.lr", "0", "fast"),
    ("optim.lr=null", "optim.lr", "0", "null"),
    ("optim.lr=true", "optim.lr", "0", "true"),
    ("optim.momentum=1", "optim.momentum", "0", "1", "1"),
    ("optim.momentum=1.5", "optim.momentum", "0", "1", "1.5"),
    ("optim.weight_decay=-1", "optim.weight_decay", "0", "-1"),
    ("optim.nesterov=1", "optim.nesterov", "true", "false", "1"),
    ("optim.decay_norm_and_bias=never", "optim.decay_norm_and_bias", "true", "false", "never"),
    ("+optim.params=[]", "optim.params", "optim.nesterov", "optim.weight_decay"),
    ("optim._target_=os.system", "optim._target_", "os.system", "RESNET_SWEEP_TRUSTED_PACKAGES"),
    ("optim._target_=torch.optim.SDG", "optim._target_", "torch.optim.SDG"),
    ("+optim._partial_=true", "optim._partial_", "optim.nesterov", "optim.weight_decay"),
    ("schedule.min_lr=0.2", "schedule", "min_lr=0.2", "optim.lr=0.1"),
    ("schedule.warmup_epochs=101", "schedule", "warmup_epochs=101", "trainer.epochs=10"),
    ("schedule.warmup_epochs=-1", "schedule.warmup_epochs", "0", "-1"),
    (
        "schedule=plateau; schedule.metric=val_accuracy",
        "schedule.metric",
        "val_accuracy",
        "val_acc",
        "val_acc",
    ),
    ("schedule=plateau; schedule.factor=1", "schedule.factor", "0", "1", "1"),
    ("schedule=plateau; schedule.factor=1.5", "schedule.factor", "0", "1", "1.5"),
    ("schedule=plateau; schedule.min_lr=1", "schedule", "min_lr=1", "optim.lr=0.1"),
    ("schedule=step; schedule.milestones=[0.7,0.5]", "schedule", "milestones=[0.7, 0.5]"),
    ("schedule=step; schedule.milestones=[50]", "schedule.milestones", "0", "1", "[50]"),
    ("schedule=cosine_warm_restarts; schedule.T_0=10", "schedule.T_0", "0", "1", "10"),
    ("schedule=cosine_warm_restarts; schedule.T_mult=0", "schedule.T_mult", "1", "0"),
    ("schedule=one_cycle; schedule.pct_start=1", "schedule.pct_start", "0", "1", "1"),
    ("schedule=one_cycle; schedule.pct_start=1.5", "schedule.pct_start", "0", "1", "1.5"),
    (
        "schedule=one_cycle; schedule.warmup_epochs=11",
        "schedule",
        "warmup_epochs=11",
        "trainer.epochs=10",
    ),
    ("optim=muon; optim.rest_lr=0", "optim.rest_lr", "0", "0"),
    ("optim=muon; optim.rest_lr=-3", "optim.rest_lr", "0", "-3"),
    ("optim.nesterov=true; optim.momentum=0", "optim", "Nesterov", "momentum"),
    ("trainer.clip_grad_norm=0", "trainer.clip_grad_norm", "0", "0", "null"),
    ("trainer.clip_grad_norm=-3", "trainer.clip_grad_norm", "0", "-3", "null"),
    ("trainer.ema_decay=1", "trainer.ema_decay", "0", "1", "1", "null"),
    ("trainer.ema_decay=1.5", "trainer.ema_decay", "0", "1", "1.5", "null"),
    ("trainer.ema_decay=[]", "trainer.ema_decay", "[]", "[0.999,0.99]"),
    ("trainer.ema_decay=[0.9,1]", "trainer.ema_decay", "[0.9, 1]", "[0.999,0.99]"),
    ("trainer.ema_decay=[0.9,0.9]", "trainer.ema_decay", "[0.9, 0.9]", "different"),
    ("trainer.ema_decay=[0.9,1e-40]", "trainer.ema_decay", "1e-40"),
    (
        "trainer.ema_decay=[0.9,0.5]; +metric.acc_ema_0_5={_target_:torch.nn.CrossEntropyLoss}",
        "metric.acc_ema_0_5",
        "trainer.ema_decay",
    ),
    ("trainer.early_stopping.patience=0", "trainer.early_stopping.patience", "1", "null", "0"),
    (
        "trainer.early_stopping.metric=loss",
        "trainer.early_stopping.metric",
        "loss",
        "val_loss",
        "val_loss",
    ),
    ("trainer.early_stopping.min_delta=-1", "trainer.early_stopping.min_delta", "0", "-1"),
    ("trainer.early_stopping=85", "trainer.early_stopping", "85"),
    ("trainer.progressive_resizing=[32,16]", "trainer.progressive_resizing", "[32, 16]"),
    ("trainer.progressive_resizing=[]", "trainer.progressive_resizing", "[]"),
    (
        "trainer.progressive_resizing=[8,48]",
        "trainer.progressive_resizing",
        "[8, 48]",
        "48",
        "48",
        "16",
    ),
    (
        "trainer.progressive_resizing=[10,32]",
        "trainer.progressive_resizing",
        "[10, 32]",
        "10",
        "10",
        "4",
        "model.strides",
    ),
    (
        "data.limit_train=257; trainer.batch_size=64; trainer.progressive_resizing=[4,16]",
        "model",
        "(3, 4, 4)",
        "trainer.progressive_resizing",
        "[4, 16]",
        "trainer.batch_size",
    ),
    (
        "loss._target_=torch.nn.MultiMarginLoss; ~loss.label_smoothing; augmentation=mixup",
        "loss",
        "multi_margin_loss",
        "[2, 10]",
    ),
    ("loss._target_=torch.nn.MSELoss; ~loss.label_smoothing", "loss", "(10)", "(2)"),
    ("trainer.progressive_resizing=16", "trainer.progressive_resizing", "1", "null", "16"),
    ("augmentation.random_crop.padding=-1", "augmentation.random_crop.padding", "0", "-1"),
    (
        "augmentation.random_flip.probability=2",
        "augmentation.random_flip.probability",
        "0",
        "1",
        "2",
    ),
    ("+augmentation.cutout=8", "augmentation.cutout", "8", "_target_"),
    ("loss.label_smoothing=1", "loss.label_smoothing", "0", "1", "1"),
    ("loss.label_smoothing=1.5", "loss.label_smoothing", "0", "1", "1.5"),
    ("trainer.epochs=0", "trainer.epochs", "1", "0"),
    ("trainer.epochs=2.0", "trainer.epochs", "1", "2.0"),
    ("trainer.epochs=ten", "trainer.epochs", "1", "ten"),
    ("trainer.batch_size=0", "trainer.batch_size", "1", "0"),
    ("trainer.batch_size=1438", "trainer.batch_size", "1438", "1437"),
    ("trainer.max_steps=0", "trainer.max_steps", "1", "null", "0"),
    ("trainer.device=gpu", "trainer.device", "gpu", "auto", "cpu"),
    ("trainer.device=cuda:99", "trainer.device", "cuda:99", "cpu"),
    (
        "trainer.precision=float16",
        "trainer.precision",
        "float16",
        "auto",
        "float32",
        "bfloat16",
        "bfloat16",
    ),
    ("data.limit_train=2000", "data.limit_train", "2000", "1437"),
    ("data.limit_train=0", "data.limit_train", "1", "null", "0"),
    ("data.holdout=1437", "data.holdout", "1437"),
    ("seed=-1", "seed", "0", "-1"),
    ("seed=0.5", "seed", "0", "0.5"),
    ("+nonsense=1", "nonsense", "seed", "trainer"),
    ("~schedule", "schedule="),
    (operation("Cutout", size=0), "augmentation.it.size", "1", "0"),
    (operation("Cutout", size=2.5), "augmentation.it.size", "1", "2.5"),
    (operation("Cutout", mean=[0, 0, 0]), "augmentation.it.mean", "augmentation.it.size"),
    (operation("RandomErasing", probability=1.1), "augmentation.it.probability", "0", "1", "1.1"),
    (operation("RandomErasing", scale=[0.3, 0.1]), "augmentation.it", "scale=[0.3, 0.1]"),
    (operation("RandomErasing", scale=[0.1]), "augmentation.it", "scale=[0.1]"),
    (
        operation("RandomErasing", scale=[0.2, 1.5]),
        "augmentation.it.scale",
        "0",
        "1",
        "[0.2, 1.5]",
    ),
    (operation("RandomErasing", ratio=[3, 0.3]), "augmentation.it", "ratio=[3, 0.3]"),
    (operation("RandomErasing", ratio=[0, 3]), "augmentation.it.ratio", "0", "0", "[0, 3]"),
    (operation("RandomErasing", ratio=[-3, 3]), "augmentation.it.ratio", "0", "[-3, 3]"),
    (operation("MixUp", alpha=0), "augmentation.it.alpha", "0", "0"),
    (operation("MixUp", alpha=-3), "augmentation.it.alpha", "0", "-3"),
    (operation("MixUp", probability=-0.1), "augmentation.it.probability", "0", "1", "-0.1"),
    (operation("MixUp", num_classes=10), "augmentation.it.num_classes", "augmentation.it.alpha"),
    (operation("CutMix", alpha=-1), "augmentation.it.alpha", "0", "-1"),
    (operation("CutMix", probability=2), "augmentation.it.probability", "0", "1", "2"),
    (
        operation("CutMixOrMixUp", cutmix_probability=2),
        "augmentation.it.cutmix_probability",
        "0",
        "1",
        "2",
    ),
    (operation("CutMixOrMixUp", mixup_alpha=0), "augmentation.it.mixup_alpha", "0", "0"),
    (operation("CutMixOrMixUp", mixup_alpha=-3), "augmentation.it.mixup_alpha", "0", "-3"),
    (operation("CutMixOrMixUp", cutmix_alpha=0), "augmentation.it.cutmix_alpha", "0", "0"),
    (operation("CutMixOrMixUp", cutmix_alpha=-3), "augmentation.it.cutmix_alpha", "0", "-3"),
    (operation("ColorJitter", brightness=-0.1), "augmentation.it.brightness", "0", "-0.1"),
    (operation("ColorJitter", contrast=-1), "augmentation.it.contrast", "0", "-1"),
    (operation("ColorJitter", saturation=-1), "augmentation.it.saturation", "0", "-1"),
    (operation("ColorJitter", hue=0.6), "augmentation.it.hue", "0", "0.5", "0.6"),
    (
        operation("TrivialAugment", num_magnitude_bins=1),
        "augmentation.it.num_magnitude_bins",
        "2",
        "1",
    ),
]


def assert_names(refusal: pytest.ExceptionInfo, *facts: str) -> None:
    """Assert that the message of an error is one line and contains all facts.

    A fact inside a longer name doesn't count. A fact that is given twice must occur twice.
    """
    message = str(refusal.value)
    assert "\n" not in message
    for fact, count in Counter(facts).items():
        name = rf"(?<![\w.-]){re.escape(fact)}(?![\w]|\.\w)"
        assert len(re.findall(name, message)) >= count, (
            f"{fact!r} doesn't occur {count} times in: {message}"
        )


@pytest.mark.parametrize(
    ("override", "facts"),
    [(override, facts) for override, *facts in WRONG],
    ids=[override for override, *_ in WRONG],
)
def test_a_wrong_value_is_refused(override: str, facts: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_run(composed("experiment=quickstart", "augmentation=standard", *override.split("; ")))
    assert_names(refusal, *facts)


# An override with a misspelt setting, that setting, the suggested one, and one that would be in a
# list of all settings.
MISSPELT = [
    ("+model.atention=se", "model.atention", "model.attention", "model.dropout"),
    ("+optim.momentun=0.9", "optim.momentun", "optim.momentum", "optim.nesterov"),
    (
        "+trainer.early_stopping.epochs=3",
        "trainer.early_stopping.epochs",
        "trainer.early_stopping.epoch",
        "trainer.early_stopping.patience",
    ),
    (
        operation("RandomErasing", scal=[0.1, 0.2]),
        "augmentation.it.scal",
        "augmentation.it.scale",
        "augmentation.it.probability",
    ),
    ("+sed=1", "sed", "seed", "trainer"),
]


@pytest.mark.parametrize(
    ("override", "misspelt", "nearest", "unrelated"),
    MISSPELT,
    ids=[override for override, *_ in MISSPELT],
)
def test_a_misspelt_setting_is_refused_with_only_the_nearest_name(
    override: str, misspelt: str, nearest: str, unrelated: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_run(composed("experiment=quickstart", "augmentation=standard", override))
    assert_names(refusal, misspelt, nearest)
    assert unrelated not in str(refusal.value)


@pytest.mark.slow
def test_a_model_that_cannot_take_the_images_is_refused() -> None:
    config = composed("experiment=quickstart")
    # AlexNet is made for 224 pixels; its pooling layers reduce 32 pixels to none.
    config["model"] = {"_target_": "torchvision.models.AlexNet"}
    with pytest.raises(ConfigError) as refusal:
        plan_run(config)
    assert_names(refusal, "model")


def test_a_model_without_a_number_of_classes_is_refused() -> None:
    config = composed("experiment=quickstart")
    config["model"] = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 4}
    with pytest.raises(ConfigError) as refusal:
        plan_run(config)
    assert_names(refusal, "model.num_classes=None", "torch.nn.Linear")


NETWORKS = [
    ({"_target_": "torchvision.models.resnet18"}, ""),
    # Its constructor reads values of tensors, and tensors on the meta device have none.
    ({"_target_": "torchvision.models.regnet_y_400mf"}, ""),
    ({"_target_": "resnet_sweep.models.torchvision_classifier", "name": "regnet_y_400mf"}, ""),
    ({"_target_": "timm.create_model", "model_name": "resnet18"}, "timm"),
    ({"_target_": "resnet_sweep.models.timm_classifier", "name": "regnety_002"}, "timm"),
]


@pytest.mark.parametrize(("node", "library"), NETWORKS)
def test_a_network_of_a_library_needs_only_a_yaml_file(node: dict, library: str) -> None:
    if library:
        pytest.importorskip(library, reason=f"pip install {library} to run this test")
    config = composed("experiment=quickstart")
    config["model"] = node
    assert plan_run(config).parameters > 1e6


def test_an_unknown_network_of_a_library_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_run(composed("data=digits", "model=torchvision_resnet18", "model.name=resnet19"))
    assert_names(refusal, "resnet19", "resnet18")


def test_only_the_order_of_augmentation_changes_the_signature() -> None:
    first, second = (
        sign(composed(f"augmentation=[{choices}]"), "float32", {"data": "f"})
        for choices in ("color_jitter,cutmix", "cutmix,color_jitter")
    )
    assert first != second
    config = composed()
    swapped = dict(reversed(config.items()))
    assert sign(swapped, "float32", {"data": "f"}) == sign(config, "float32", {"data": "f"})
    for group in ("optim", "trainer", "model"):
        config[group] = dict(reversed(config[group].items()))
    assert sign(swapped, "float32", {"data": "f"}) == sign(config, "float32", {"data": "f"})


def test_an_environment_variable_makes_a_package_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed("experiment=quickstart")
    config["augmentation"] = {"mine": {"_target_": "fractions.Fraction", "numerator": 1}}
    with pytest.raises(ConfigError) as refusal:
        check_config(config)
    trusted = "RESNET_SWEEP_TRUSTED_PACKAGES"
    assert_names(refusal, "augmentation.mine._target_", "fractions.Fraction", trusted)
    monkeypatch.setenv(trusted, "fractions")
    check_config(config)


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("model", "torch.nn.Module"),
        ("data", "load"),
        ("optim", "torch.optim.Optimizer"),
        ("schedule", "resnet_sweep.training.schedules.Schedule"),
        ("loss", "torch.nn.Module"),
        ("augmentation", "generator"),
        ("metric", "logits"),
        ("logger", "resnet_sweep.training.callbacks.Callback"),
    ],
)
def test_an_object_of_another_kind_is_refused(
    group: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "types")
    config = composed("experiment=quickstart")
    node = {"_target_": "types.SimpleNamespace", "lr": 0.1}
    named = group in COLLECTION_GROUPS
    config[group] = {"mine": node} if named else node
    with pytest.raises(ConfigError) as refusal:
        plan_run(config)
    path = f"{group}.mine" if named else group
    assert_names(refusal, f"{path}._target_", "types.SimpleNamespace", kind)


@pytest.mark.parametrize(
    ("load", "fact"),
    [("lambda self, seed: seed", "int"), ("lambda self, seed: 1 / 0", "division by zero")],
)
def test_a_dataset_that_cannot_be_loaded_is_refused(
    load: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"my_data_{len(load)}"
    (tmp_path / f"{name}.py").write_text(f"class Data:\n    load = {load}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", name)
    config = composed("experiment=quickstart")
    config["data"] = {"_target_": f"{name}.Data"}
    with pytest.raises(ConfigError) as refusal:
        plan_run(config)
    assert_names(refusal, "data._target_", f"{name}.Data", fact)


def test_an_optimizer_of_torch_needs_only_a_yaml_file() -> None:
    config = composed("experiment=quickstart")
    config["optim"] = {"_target_": "torch.optim.RMSprop", "lr": 0.01, "alpha": 0.9}
    assert plan_run(config).parameters > 0


def test_augmentations_are_applied_in_the_order_of_the_choices() -> None:
    config = composed("experiment=quickstart", "augmentation=[cutmix,color_jitter,cutout]")
    operations = build_augmentation(config, plan_run(config).dataset)
    assert [type(operation).__name__ for operation in operations] == [
        "RandomCrop",
        "RandomHorizontalFlip",
        "CutMix",
        "ColorJitter",
        "Cutout",
    ]


def test_an_augmentation_gets_num_classes_and_mean_if_its_constructor_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_augmentation.py").write_text(
        textwrap.dedent(
            """
            class Plain:
                def __init__(self, strength=1):
                    self.arguments = strength

                def __call__(self, images, labels, generator):
                    return images, labels

            class DataDependent(Plain):
                def __init__(self, num_classes, mean, strength=1):
                    self.arguments = num_classes, mean, strength
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RESNET_SWEEP_TRUSTED_PACKAGES", "my_augmentation")
    config = composed("experiment=quickstart")
    config["augmentation"] = {
        "dependent": {"_target_": "my_augmentation.DataDependent", "strength": 2},
        "plain": {"_target_": "my_augmentation.Plain"},
    }
    dataset = plan_run(config).dataset
    dependent, plain = build_augmentation(config, dataset)
    assert dependent.arguments == (10, dataset.mean, 2)
    assert plain.arguments == 1
    config["augmentation"]["dependent"]["mean"] = [0, 0, 0]
    with pytest.raises(ConfigError) as refusal:
        check_config(config)
    assert_names(refusal, "augmentation.dependent.mean", "augmentation.dependent.strength")


def test_one_line_joins_the_lines_of_an_error_message() -> None:
    assert (
        one_line(ValueError("the first line\n  and the second.\n"))
        == "the first line and the second"
    )
    assert one_line(KeyError()) == "KeyError"
