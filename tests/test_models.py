"""The networks are those of the papers and of the log."""

import pytest
import torch
from reference_resnet import count_parameters, resnet_v2

from resnet_sweep.models import ResNet

SHAPES = {
    "resnet44v2": ([32, 64, 128, 256], [7, 7, 7, 3], [1, 2, 2, 2], 5_940_356),
    "resnet44v2_3stage": ([32, 64, 128], [7, 7, 7], [1, 2, 2], 2_647_684),
    "resnet20v2": ([16, 32, 64], [3, 3, 3], [1, 2, 2], None),
    "resnet8v2": ([16, 32, 64], [1, 1, 1], [1, 2, 2], None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameter_count_is_the_closed_formula(name: str) -> None:
    widths, blocks, strides, logged = SHAPES[name]
    with torch.device("meta"):
        model = ResNet(100, widths, blocks, strides)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == count_parameters(widths, blocks, strides, 100)
    assert logged is None or count == logged


def test_three_stages_have_44_weighted_layers() -> None:
    with torch.device("meta"):
        model = ResNet(100, *SHAPES["resnet44v2_3stage"][:3])
    weighted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in name
    ]
    assert len(weighted) == 44


def in_order_of_use(model: ResNet) -> list[torch.Tensor]:
    """The weights in the order of `reference_resnet.resnet_v2`, found by running the model."""
    found: list[torch.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: found.extend(module.parameters()))
        for module in model.modules()
        if not list(module.children())
    ]
    model(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    ("widths", "blocks", "strides"),
    [([4, 8], [2, 1], [1, 2]), ([6, 6, 4], [1, 2, 1], [2, 1, 2]), ([5], [3], [1])],
)
def test_outputs_equal_the_papers_equations(widths, blocks, strides) -> None:
    torch.manual_seed(0)
    model = ResNet(7, widths, blocks, strides, dropout=0.0).double().train()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    weights = move_shortcuts_last(model, in_order_of_use(model))
    expected = resnet_v2(images, weights, widths, blocks, strides)
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)


def move_shortcuts_last(model: ResNet, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """The reference takes a block's shortcut after its other weights; the model uses it earlier."""
    moved = list(weights)
    for stage in model.stages:
        for block in stage:
            if block.shortcut is not None:
                shortcut = next(w for w in moved if w is block.shortcut.weight)
                moved = [w for w in moved if w is not shortcut]
                after = next(i for i, w in enumerate(moved) if w is block.conv2.weight)
                moved.insert(after + 1, shortcut)
    return moved


def test_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    model = ResNet(5, [4, 6], [1, 1], [1, 2]).double().train()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 3, 4])
    weights = list(model.parameters())
    loss = lambda: torch.nn.functional.cross_entropy(model(images), labels)  # noqa: E731
    gradients = torch.autograd.grad(loss(), weights)
    step = 1e-6
    for seed in range(5):
        torch.manual_seed(seed)
        direction = [torch.randn_like(weight) for weight in weights]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
        with torch.no_grad():
            values = []
            for sign in (1, -2):
                for weight, change in zip(weights, direction, strict=True):
                    weight += sign * step * change
                values.append(loss())
            for weight, change in zip(weights, direction, strict=True):
                weight += step * change
        torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, rtol=1e-5, atol=0)


def test_dropout_acts_before_the_classifier_and_in_training_alone() -> None:
    model = ResNet(5, [4], [1], [1], dropout=0.5)
    images = torch.randn(2, 3, 8, 8)
    model.eval()
    assert torch.equal(model(images), model(images))
    seen = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.train()
    model(images.repeat(64, 1, 1, 1))
    dropped = (seen[0] == 0).double().mean().item()
    assert 0.35 < dropped < 0.65


def test_first_weights_have_the_variance_of_he_2015() -> None:
    torch.manual_seed(0)
    model = ResNet(100, [64], [2], [1])
    weight = model.stages[0][0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_stages_must_agree_in_number() -> None:
    with pytest.raises(ValueError, match=r"blocks=\[1\]"):
        ResNet(10, [4, 8], [1], [1, 2])
