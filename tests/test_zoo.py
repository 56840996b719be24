"""Classifiers of torchvision and timm for images of 32x32 pixels."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from resnet_sweep.models import timm_classifier, torchvision_classifier

# The default tier has one network of each design, the smallest.
TORCHVISION = [
    pytest.param("convnext_tiny", marks=pytest.mark.slow),
    pytest.param("densenet121", marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    pytest.param("googlenet", marks=pytest.mark.slow),
    "mobilenet_v3_small",
    pytest.param("regnet_y_400mf", marks=pytest.mark.slow),
    "resnet18",
    pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.slow),
    "squeezenet1_1",
]
PATCHES = {"img_size": 32, "patch_size": 4}
WINDOWS = {"img_size": 32, "patch_size": 2, "window_size": 4}
TIMM = [
    pytest.param("convnext_atto", {}, marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", {}, marks=pytest.mark.slow),
    ("mobilenetv3_small_100", {}),
    pytest.param("regnety_002", {}, marks=pytest.mark.slow),
    pytest.param("repvgg_a0", {}, marks=pytest.mark.slow),
    pytest.param("resnet18d", {}, marks=pytest.mark.slow),
    pytest.param("swin_tiny_patch4_window7_224", WINDOWS, marks=pytest.mark.slow),
    pytest.param("tf_efficientnet_b0", {}, marks=pytest.mark.slow),
    ("vit_tiny_patch16_224", PATCHES),
]


def assert_trains(model: nn.Module, channels: int = 3) -> None:
    """Assert that each weight gets a finite gradient from a batch of four images."""
    model.train()
    logits = model(torch.randn(4, channels, 32, 32))
    assert logits.shape == (4, 10)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_classifiers_have_gradients_for_all_weights(name: str) -> None:
    torch.manual_seed(0)
    assert_trains(torchvision_classifier(10, name))


@pytest.mark.parametrize(("name", "arguments"), TIMM)
def test_timm_classifiers_have_gradients_for_all_weights(name: str, arguments: dict) -> None:
    pytest.importorskip("timm", reason="pip install timm to run this")
    torch.manual_seed(0)
    assert_trains(timm_classifier(10, name, **arguments))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_classifiers_take_gray_images(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision_classifier(10, name, in_channels=1)
    assert_trains(model, channels=1)
    # The variance of the first outputs is that for independent channels.
    gray = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    torch.manual_seed(0)
    rgb = next(
        module
        for module in torchvision_classifier(10, name).modules()
        if isinstance(module, nn.Conv2d)
    )
    with torch.no_grad():
        ratio = gray(torch.randn(64, 1, 32, 32)).var() / rgb(torch.randn(64, 3, 32, 32)).var()
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize(("name", "arguments"), TIMM)
def test_timm_classifiers_take_gray_images(name: str, arguments: dict) -> None:
    pytest.importorskip("timm", reason="pip install timm to run this")
    torch.manual_seed(0)
    assert_trains(timm_classifier(10, name, in_channels=1, **arguments), channels=1)


def builder(library: str) -> Callable[..., nn.Module]:
    """Return the function that builds a classifier of a library."""
    if library == "timm":
        pytest.importorskip("timm", reason="pip install timm to run this")
        return timm_classifier
    return torchvision_classifier


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_resnet18_is_changed_into_the_common_network_for_cifar(library: str) -> None:
    """It has a 3x3 stem without pooling, and its parameters are counted layer by layer."""
    model = builder(library)(10, "resnet18")
    expected = 27 * 64 + 2 * 64
    for inputs, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        expected += 9 * inputs * width + 3 * 9 * width**2 + 4 * 2 * width
        expected += inputs * width + 2 * width if inputs != width else 0
    expected += 512 * 10 + 10
    assert sum(weight.numel() for weight in model.parameters()) == expected
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[-1]))
    model.eval()(torch.zeros(1, 3, 32, 32))
    assert shapes == [32, 32, 16, 8]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_initial_weights_of_a_changed_stem_have_the_variance_of_he_2015(library: str) -> None:
    torch.manual_seed(0)
    weight = builder(library)(10, "resnet18").conv1.weight
    assert weight.shape == (64, 3, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.06)


def first_convolution(model: nn.Module) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


def test_a_stem_of_patches_gets_smaller_patches_that_do_not_overlap() -> None:
    stem = first_convolution(torchvision_classifier(10, "convnext_tiny"))
    assert stem.kernel_size == stem.stride == (2, 2)
    assert stem.weight.shape == (96, 3, 2, 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("vgg11_bn", {}), ("vit_b_16", {"image_size": 32}), ("resnet18", {"fit_stem": False})],
)
def test_other_stems_are_not_changed(name: str, arguments: dict) -> None:
    import torchvision

    raw = {key: value for key, value in arguments.items() if key != "fit_stem"}
    with torch.device("meta"):
        ours = torchvision_classifier(10, name, **arguments)
        theirs = torchvision.models.get_model(name, num_classes=10, **raw)
    assert str(ours) == str(theirs)


def assert_refused(build: Callable[..., nn.Module], name: str, *facts: str, **arguments) -> None:
    """Assert that building a network raises an error that contains all facts."""
    with pytest.raises(ValueError) as error:
        build(10, name, **arguments)
    for fact in facts:
        assert fact in str(error.value)


def test_the_error_about_an_unknown_name_has_similar_names() -> None:
    assert_refused(torchvision_classifier, "resnet19", "resnet19", "torchvision", "resnet18")
    assert_refused(torchvision_classifier, "qqqq", "qqqq", "torchvision", "list_models()")


def test_a_timm_name_that_would_be_downloaded_is_refused() -> None:
    pytest.importorskip("timm", reason="pip install timm to run this")
    assert_refused(timm_classifier, "resnet19", "resnet19", "timm", "resnet18")
    assert_refused(timm_classifier, "hf-hub:someone/something", "hf-hub:someone/something", "timm")


@pytest.mark.parametrize("argument", ["weights", "checkpoint_path"])
def test_weights_that_the_signature_would_not_contain_are_refused(argument: str) -> None:
    assert_refused(torchvision_classifier, "resnet18", f"{argument}=True", **{argument: True})


def test_without_timm_the_error_has_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert_refused(timm_classifier, "resnet18", "pip install 'resnet-sweep[timm]'")


@pytest.mark.slow
def test_the_networks_of_this_package_do_not_import_torchvision() -> None:
    check = "import sys, resnet_sweep.models as m; sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
