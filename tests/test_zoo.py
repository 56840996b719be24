"""Classifiers of torchvision and timm learn from images of 32x32 pixels."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from resnet_sweep.models import timm_classifier, torchvision_classifier

TORCHVISION = [
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
]
PATCHES = {"img_size": 32, "patch_size": 4}
TIMM = [
    ("convnext_atto", {}),
    ("efficientnet_b0", {}),
    ("mobilenetv3_small_100", {}),
    ("regnety_002", {}),
    ("repvgg_a0", {}),
    ("resnet18d", {}),
    ("swin_tiny_patch4_window7_224", {"img_size": 32, "patch_size": 2, "window_size": 4}),
    ("tf_efficientnet_b0", {}),
    ("vit_tiny_patch16_224", PATCHES),
]


def learns(model: nn.Module) -> None:
    """Each weight gets a finite gradient from a batch of four."""
    model.train()
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 10)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_classifiers_learn(name: str) -> None:
    torch.manual_seed(0)
    learns(torchvision_classifier(10, name))


@pytest.mark.parametrize(("name", "arguments"), TIMM, ids=[name for name, _ in TIMM])
def test_timms_classifiers_learn(name: str, arguments: dict) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    learns(timm_classifier(10, name, **arguments))


def builder(library: str):
    if library == "timm":
        pytest.importorskip("timm")
        return timm_classifier
    return torchvision_classifier


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_resnet18_becomes_the_one_that_is_common_for_cifar(library: str) -> None:
    """A 3x3 stem, nothing before the first stage, and its number of weights, layer by layer."""
    model = builder(library)(10, "resnet18")
    expected = 27 * 64 + 2 * 64
    for entry, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        expected += 9 * entry * width + 3 * 9 * width**2 + 4 * 2 * width
        expected += entry * width + 2 * width if entry != width else 0
    expected += 512 * 10 + 10
    assert sum(weight.numel() for weight in model.parameters()) == expected
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[-1]))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert shapes == [32, 32, 16, 8]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_first_weights_of_a_fitted_stem_are_those_of_he_2015(library: str) -> None:
    torch.manual_seed(0)
    weight = builder(library)(10, "resnet18").conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.06)


def first_convolution(model: nn.Module) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def test_patches_become_smaller_but_stay_disjoint() -> None:
    stem = first_convolution(torchvision_classifier(10, "convnext_tiny"))
    assert stem.kernel_size == stem.stride == (2, 2)
    assert stem.weight.shape == (96, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("vgg11_bn", {}), ("vit_b_16", {"image_size": 32}), ("resnet18", {"fit_stem": False})],
)
def test_other_stems_are_left_alone(name: str, arguments: dict) -> None:
    import torchvision

    raw = {key: value for key, value in arguments.items() if key != "fit_stem"}
    with torch.device("meta"):
        ours = torchvision_classifier(10, name, **arguments)
        theirs = torchvision.models.get_model(name, num_classes=10, **raw)
    assert str(ours) == str(theirs)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean resnet18 or"):
        torchvision_classifier(10, "resnet19")
    with pytest.raises(ValueError, match=r"list_models\(\) has the names"):
        torchvision_classifier(10, "qqqq")


def test_timms_names_are_of_networks_and_not_of_the_net() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="did you mean resnet18 or"):
        timm_classifier(10, "resnet19")
    with pytest.raises(ValueError, match="isn't a classifier of timm"):
        timm_classifier(10, "hf-hub:someone/something")


@pytest.mark.parametrize("argument", ["weights", "pretrained"])
def test_trained_weights_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument}=True asks for trained weights"):
        torchvision_classifier(10, "resnet18", **{argument: True})


def test_without_timm_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'resnet-sweep\[timm\]'"):
        timm_classifier(10, "resnet18")


def test_our_own_networks_dont_wait_for_torchvision() -> None:
    check = "import sys, resnet_sweep.models as m; sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
