"""Networks, compared with their papers and with the training log."""

from pathlib import Path

import pytest
import torch
import yaml
from reference_resnet import count_attention, count_parameters, resnet

from resnet_sweep.models import ResNet
from resnet_sweep.models.attention import ATTENTION
from resnet_sweep.models.blocks import BLOCKS, StochasticDepth

CONF = Path(__file__).parents[1] / "conf" / "model"

SHAPES = {
    "resnet44v2": ([32, 64, 128, 256], [7, 7, 7, 3], [1, 2, 2, 2], 5_940_356),
    "resnet44v2_3stage": ([32, 64, 128], [7, 7, 7], [1, 2, 2], 2_647_684),
    "resnet44v2_thin": ([16, 32, 64], [7, 7, 7], [1, 2, 2], 666_996),
    "resnet20v2": ([16, 32, 64], [3, 3, 3], [1, 2, 2], None),
    "resnet8v2": ([16, 32, 64], [1, 1, 1], [1, 2, 2], None),
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameter_count_equals_the_closed_formula(name: str) -> None:
    widths, blocks, strides, stated = SHAPES[name]
    with torch.device("meta"):
        model = ResNet(100, widths, blocks, strides)
    count = sum(weight.numel() for weight in model.parameters())
    assert count == count_parameters(widths, blocks, strides, 100) == parameter_count(name)
    assert stated is None or count == stated


@pytest.mark.parametrize("name", ["resnet44v2_3stage", "resnet44v2_thin"])
def test_a_three_stage_resnet44_has_44_weighted_layers(name: str) -> None:
    with torch.device("meta"):
        model = ResNet(100, *SHAPES[name][:3])
    weighted = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in name
    ]
    assert len(weighted) == 44


def in_order_of_use(model: ResNet) -> list[torch.Tensor]:
    """Run the model, and return its weights in the order that `reference_resnet.resnet` takes."""
    used: dict[torch.Tensor, None] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, *_: used.update(dict.fromkeys(module.parameters()))
        )
        for module in model.modules()
        if not list(module.children())
    ]
    model(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    return list(used)


@pytest.mark.parametrize("attention", [None, "se", "eca", "cbam"])
@pytest.mark.parametrize("block", ["basic_v1", "basic_v2", "bottleneck_v2"])
@pytest.mark.parametrize(
    ("widths", "blocks", "strides", "stem_width"),
    [([4, 8], [2, 1], [1, 2], None), ([6, 6, 4], [1, 2, 1], [2, 1, 2], 3), ([5], [2], [1], None)],
)
def test_outputs_equal_the_papers_equations(
    widths, blocks, strides, stem_width, block, attention
) -> None:
    torch.manual_seed(0)
    variant = {"block": block, "attention": attention, "stem_width": stem_width}
    model = ResNet(7, widths, blocks, strides, **variant).double().train()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    weights = in_order_of_use(model)
    assert {*map(id, weights)} == {*map(id, model.parameters())}
    expected = resnet(images, weights, widths, blocks, strides, **variant)
    torch.testing.assert_close(model(images), expected, rtol=1e-9, atol=1e-9)
    assert sum(weight.numel() for weight in weights) == count_parameters(
        widths, blocks, strides, 7, **variant
    )


@pytest.mark.parametrize("attention", ["se", "eca", "cbam"])
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 64, 100, 128, 256, 512, 2048])
def test_attention_has_as_many_weights_as_in_its_paper(attention: str, channels: int) -> None:
    with torch.device("meta"):
        module = ATTENTION[attention](channels)
    count = sum(weight.numel() for weight in module.parameters())
    assert count == count_attention(attention, channels)


def test_resnet_164_has_the_published_number_of_parameters() -> None:
    """He et al., 2016b, table 3: 1.7 M. The blocks have 3 * 54 of the 164 layers."""
    with torch.device("meta"):
        model = ResNet(10, [16, 32, 64], [18, 18, 18], [1, 2, 2], block="bottleneck_v2")
    count = sum(weight.numel() for weight in model.parameters())
    assert count == count_parameters([16, 32, 64], [18] * 3, [1, 2, 2], 10, "bottleneck_v2")
    assert round(count / 1e6, 1) == 1.7
    assert model.classifier.in_features == 256


def test_resnet_20_has_the_published_number_of_parameters() -> None:
    """He et al., 2016a, table 6: 0.27 M, with shortcuts that have no weights."""
    with torch.device("meta"):
        model = ResNet(10, [16, 32, 64], [3, 3, 3], [1, 2, 2], block="basic_v1")
    count = sum(weight.numel() for weight in model.parameters())
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert round((count - projections) / 1e6, 2) == 0.27


def test_wide_resnet_has_the_published_number_of_parameters() -> None:
    """The layers are counted as in Zagoruyko and Komodakis, 2016, table 1, and in their code."""
    convolutions = 27 * 16
    norms = 0
    for inputs, width in ((16, 32), (32, 64), (64, 128)):
        convolutions += 9 * inputs * width + 11 * 9 * width**2 + inputs * width
        norms += 2 * inputs + 11 * 2 * width
    expected = convolutions + norms + 2 * 128 + 128 * 100 + 100
    assert parameter_count("wrn_40_2") == expected
    # The published number, 2.2 M, is for 10 classes.
    assert round((expected - 90 * 129) / 1e6, 1) == 2.2


def test_preactresnet18_has_the_parameters_of_the_common_network_and_a_last_batch_norm() -> None:
    """The network that is commonly used for CIFAR, counted layer by layer, has 11.2 M."""
    common = 27 * 64
    for inputs, width in ((64, 64), (64, 128), (128, 256), (256, 512)):
        common += 9 * inputs * width + 3 * 9 * width**2 + 2 * inputs + 3 * 2 * width
        common += inputs * width if inputs != width else 0
    common += 512 * 10 + 10
    assert common == 11_171_146
    assert parameter_count("preactresnet18") == common + 90 * 513 + 2 * 512


def parameter_count(name: str) -> int:
    """Return the number of parameters of a model in `conf/model/`, with 100 classes."""
    arguments = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del arguments["_target_"]
    with torch.device("meta"):
        return sum(weight.numel() for weight in ResNet(100, **arguments).parameters())


def test_stride_is_the_factor_by_which_the_last_stage_is_smaller_than_the_image() -> None:
    model = ResNet(10, [4, 4, 4], [1, 2, 1], [1, 2, 3])
    assert model.stages(model.stem(torch.zeros(1, 3, 24, 24))).shape[-1] == 24 / model.stride


def test_stochastic_depth_equals_torchvisions_for_the_same_random_numbers() -> None:
    from torchvision.ops import stochastic_depth

    residual = torch.randn(64, 3, 4, 4)
    torch.manual_seed(5)
    expected = stochastic_depth(residual, 0.3, "row")
    torch.manual_seed(5)
    assert torch.equal(StochasticDepth(0.3).train()(residual), expected)
    assert torch.equal(StochasticDepth(0.3).eval()(residual), residual)


@pytest.mark.parametrize("block", ["basic_v1", "basic_v2", "bottleneck_v2"])
def test_a_block_with_a_dropped_residual_returns_the_shortcut(block: str) -> None:
    torch.manual_seed(0)
    module = BLOCKS[block](8, 8 // BLOCKS[block].expansion, 1, None, 0.5).train()
    images = torch.rand(40, 8, 4, 4)
    outputs = module(images)
    dropped = (outputs == images).flatten(1).all(1)
    assert 5 < dropped.sum() < 35
    module.stochastic_depth.probability = 0.0
    # Residuals are dropped after BatchNorm, so its statistics are the same in both passes.
    twice = 2 * (module(images) - images) + images
    if block == "basic_v1":
        twice = twice.relu()
    torch.testing.assert_close(outputs[~dropped], twice[~dropped])


def test_drop_probability_rises_linearly_to_the_last_block() -> None:
    """Huang et al., 2016, equation 4: block l of L survives with 1 - l / L * (1 - p_L)."""
    model = ResNet(10, [4, 8], [2, 3], [1, 2], stochastic_depth=0.4)
    survival = [1 - block.stochastic_depth.probability for stage in model.stages for block in stage]
    assert survival == pytest.approx([1 - number / 5 * (1 - 0.6) for number in range(1, 6)])


def test_a_network_without_dropout_draws_no_random_numbers() -> None:
    model = ResNet(10, [4], [2], [1]).train()
    before = torch.get_rng_state()
    model(torch.zeros(2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_equals_finite_differences() -> None:
    torch.manual_seed(0)
    model = ResNet(5, [4, 6], [1, 1], [1, 2]).double().train()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    labels = torch.tensor([0, 3, 4])
    weights = list(model.parameters())

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(images), labels)

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


def test_dropout_is_applied_before_the_classifier_and_only_in_training() -> None:
    model = ResNet(5, [4], [1], [1], dropout=0.5)
    images = torch.randn(2, 3, 8, 8)
    model.eval()
    assert torch.equal(model(images), model(images))
    features = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model.train()
    model(images.repeat(64, 1, 1, 1))
    dropped = (features[0] == 0).double().mean().item()
    assert 0.35 < dropped < 0.65


def test_initial_weights_have_the_variance_of_he_2015() -> None:
    torch.manual_seed(0)
    model = ResNet(100, [64], [2], [1])
    weight = model.stages[0][0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_with_torchs_initialization_convolutions_have_torchs_own_weights() -> None:
    torch.manual_seed(0)
    model = ResNet(100, [64], [2], [1], initialization="torch")
    torch.manual_seed(0)
    assert torch.equal(model.stem.weight, torch.nn.Conv2d(3, 64, 3, bias=False).weight)
    weight = model.stages[0][0].conv1.weight
    assert weight.std().item() == pytest.approx((1 / (3 * 9 * 64)) ** 0.5, rel=0.02)
    assert weight.abs().max().item() <= (1 / (9 * 64)) ** 0.5


def test_settings_for_different_numbers_of_stages_are_refused() -> None:
    with pytest.raises(ValueError) as error:
        ResNet(10, [4, 8], [1], [1, 2])
    for fact in ("widths=[4, 8]", "blocks=[1]", "strides=[1, 2]"):
        assert fact in str(error.value)
