"""Batched augmentation, compared with torchvision's augmentation of single images."""

import math
from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from resnet_sweep import augmentation
from resnet_sweep.augmentation import (
    ColorJitter,
    CutMix,
    CutMixOrMixUp,
    Cutout,
    MixUp,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    TrivialAugment,
    color,
    trivial_augment,
)
from resnet_sweep.augmentation.crop_flip import crop
from resnet_sweep.augmentation.erasing import box_mask, square_mask
from resnet_sweep.augmentation.mixing import blend, draw_beta, mix_labels, paste

MEAN = [0.5, 0.4, 0.3]
CLASSES = 100
# An instance of each class, with settings that make it change every image.
OPERATIONS = {
    "ColorJitter": lambda: ColorJitter(),
    "CutMix": lambda: CutMix(CLASSES),
    "CutMixOrMixUp": lambda: CutMixOrMixUp(CLASSES),
    "Cutout": lambda: Cutout(MEAN),
    "MixUp": lambda: MixUp(CLASSES),
    "RandomCrop": lambda: RandomCrop(),
    "RandomErasing": lambda: RandomErasing(MEAN, probability=1.0),
    "RandomHorizontalFlip": lambda: RandomHorizontalFlip(),
    "TrivialAugment": lambda: TrivialAugment(),
}
MIXING = ("CutMix", "CutMixOrMixUp", "MixUp")


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_equals_torchvisions_at_the_same_offsets(images: torch.Tensor, padding: int) -> None:
    top, left = torch.randint(2 * padding + 1, (2, len(images)), generator=generator())
    cropped = crop(images, padding, top, left)
    for index, image in enumerate(images):
        padded = functional.pad(image, [padding])
        expected = functional.crop(padded, int(top[index]), int(left[index]), 32, 32)
        assert torch.equal(cropped[index], expected)


def test_random_crop_draws_an_offset_for_each_image_uniformly() -> None:
    # The value of a pixel is its position, so the middle pixel of a crop gives the offset.
    positions = torch.arange(32 * 32, dtype=torch.float32).view(1, 1, 32, 32)
    batch = positions.expand(4000, 3, 32, 32)
    cropped, _ = RandomCrop(padding=4)(batch, torch.zeros(4000), generator())
    middle = cropped[:, 0, 16, 16].long()
    offsets, counts = torch.stack([middle // 32 - 16, middle % 32 - 16]).unique(
        dim=1, return_counts=True
    )
    assert offsets.shape[1] == 81
    assert offsets.min() == -4
    assert offsets.max() == 4
    # 4,000 / 81 is 49 with a standard deviation of 7.
    assert counts.min() > 20
    assert counts.max() < 85


def test_flip_equals_torchvisions_for_about_half_of_the_images(images: torch.Tensor) -> None:
    many = images.repeat(50, 1, 1, 1)
    flipped, labels = RandomHorizontalFlip()(many, torch.arange(len(many)), generator())
    assert torch.equal(labels, torch.arange(len(many)))
    mirrored = [
        torch.equal(new, functional.hflip(old)) for new, old in zip(flipped, many, strict=True)
    ]
    kept = [torch.equal(new, old) for new, old in zip(flipped, many, strict=True)]
    assert all(is_mirrored != is_kept for is_mirrored, is_kept in zip(mirrored, kept, strict=True))
    assert 900 < sum(mirrored) < 1100


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_flip_probability_0_keeps_and_1_mirrors_every_image(
    images: torch.Tensor, probability: float, expected: bool
) -> None:
    flipped, _ = RandomHorizontalFlip(probability)(images, images[:, 0, 0, 0], generator())
    assert torch.equal(flipped, images.flip(-1)) is expected


class TestEveryOperation:
    @pytest.fixture(params=OPERATIONS)
    @classmethod
    def operation(cls, request: pytest.FixtureRequest) -> Callable:
        return OPERATIONS[request.param]()

    @pytest.fixture
    @classmethod
    def labels(cls) -> torch.Tensor:
        return torch.randint(CLASSES, (40,), generator=generator(9))

    def test_the_operations_under_test_are_all_that_there_are(self) -> None:
        assert {*OPERATIONS} == {*augmentation.__all__}

    def test_the_result_depends_only_on_the_generator(self, operation, images, labels) -> None:
        first, _ = operation(images, labels, generator(5))
        torch.rand(100)
        second, _ = operation(images, labels, generator(5))
        other, _ = operation(images, labels, generator(6))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)

    def test_the_arguments_are_not_changed(self, operation, images, labels) -> None:
        for batch in (images, images.float()):
            for targets in (labels, torch.nn.functional.one_hot(labels, CLASSES).float()):
                before = batch.clone(), targets.clone()
                operation(batch, targets, generator())
                assert torch.equal(batch, before[0])
                assert torch.equal(targets, before[1])

    def test_bytes_and_floats_give_the_same_images(self, operation, images, labels) -> None:
        from_bytes, _ = operation(images, labels, generator(2))
        from_floats, _ = operation(images.float(), labels, generator(2))
        assert torch.equal(from_bytes.float(), from_floats.float())
        assert from_bytes.float().min() >= 0
        # MixUp adds two rounded products, so a white pixel can exceed 255 by rounding.
        assert from_bytes.float().max() <= 255 * (1 + 2 * torch.finfo(torch.float32).eps)

    def test_each_image_has_its_own_random_values(self, operation, images) -> None:
        if type(operation).__name__ in MIXING:
            _, shares = operation(images, torch.arange(40), generator())
            different = shares.amax(1).unique()
        else:
            same = images[:1].expand(40, -1, -1, -1)
            batch, _ = operation(same, torch.arange(40), generator())
            different = batch.unique(dim=0)
        assert len(different) >= (2 if isinstance(operation, RandomHorizontalFlip) else 12)

    @pytest.mark.parametrize("shape", [(1, 3, 32, 32), (7, 3, 32, 32), (5, 3, 24, 40)])
    def test_batches_and_images_of_any_size_are_accepted(
        self, operation, shape: tuple[int, ...]
    ) -> None:
        batch = torch.randint(256, shape, dtype=torch.uint8, generator=generator())
        targets = torch.arange(len(batch))
        for seed in range(20):
            changed, mixed = operation(batch, targets, generator(seed))
            assert changed.shape == shape
            assert changed.isfinite().all()
            if mixed.ndim == 2:
                assert torch.allclose(mixed.sum(1), torch.ones(len(batch)))
            else:
                assert torch.equal(mixed, targets)

    def test_all_operations_can_be_chained(self, images, labels) -> None:
        batch, targets = images, labels
        for make in OPERATIONS.values():
            batch, targets = make()(batch, targets, generator())
        assert batch.shape == images.shape
        assert targets.shape == (40, CLASSES)
        assert targets.dtype == torch.float32
        assert targets.min() >= 0
        assert torch.allclose(targets.sum(1), torch.ones(40))


def test_box_mask_marks_the_pixels_of_a_slice() -> None:
    top, left, bottom, right = torch.tensor(
        [[0, 3, -2, 5, 9], [1, 2, 7, 4, 4], [4, 3, 2, 99, 20], [6, 8, 11, 5, 4]]
    )
    found = box_mask(top, left, bottom, right, 9, 11)
    for index in range(5):
        expected = torch.zeros(9, 11, dtype=torch.bool)
        expected[max(top[index], 0) : bottom[index], left[index] : right[index]] = True
        assert torch.equal(found[index, 0], expected)


class TestCutout:
    @pytest.mark.parametrize("size", [1, 8, 9, 16])
    def test_the_square_has_its_size_and_is_cut_off_at_the_border(self, size: int) -> None:
        y, x = torch.cartesian_prod(torch.arange(32), torch.arange(32)).T
        found = square_mask(y, x, size, 32, 32)[:, 0]
        for index in range(0, 32 * 32, 7):
            for row in range(32):
                below = row - int(y[index]) + size // 2
                for column in range(0, 32, 5):
                    right = column - int(x[index]) + size // 2
                    expected = 0 <= below < size and 0 <= right < size
                    assert bool(found[index, row, column]) is expected

    def test_it_fills_the_square_with_the_mean(self, images: torch.Tensor) -> None:
        cut, _ = Cutout(MEAN, size=8)(images, torch.zeros(40), generator())
        changed = (cut != images).any(1)
        normalized = cut - 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
        assert (normalized.abs().sum(1)[changed] == 0).all()
        # A square is complete, or cut off by the border of the image.
        areas = changed.sum((1, 2))
        assert areas.max() == 64
        assert areas.min() >= 16

    def test_its_centre_is_uniform_over_all_pixels(self) -> None:
        batch = torch.zeros(20_000, 3, 8, 8)
        cut, _ = Cutout([1.0, 1.0, 1.0], size=1)(batch, torch.zeros(20_000), generator())
        counts = (cut[:, 0] > 0).sum(0).double()
        assert counts.sum() == 20_000
        # With 63 degrees of freedom, 1 in 1,000 values of chi squared is above 103.
        assert ((counts - 20_000 / 64) ** 2 / (20_000 / 64)).sum() < 103


class TestRandomErasing:
    COUNT = 3000

    def boxes(self, erase: RandomErasing, height: int, width: int) -> torch.Tensor:
        """Return the top, left, height and width of the erased rectangles, or zeros: (n, 4)."""
        batch = torch.zeros(self.COUNT, 3, height, width)
        erased, _ = erase(batch, torch.zeros(self.COUNT), generator())
        found = []
        for image in erased[:, 0] > 0:
            rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
            if not len(rows):
                found.append((0, 0, 0, 0))
                continue
            top, left = int(rows[0]), int(columns[0])
            box = (top, left, len(rows), len(columns))
            assert image[top : top + len(rows), left : left + len(columns)].all()
            assert image.sum() == len(rows) * len(columns)
            found.append(box)
        return torch.tensor(found)

    @pytest.mark.parametrize(
        ("height", "width", "scale", "ratio"),
        [
            (32, 32, (0.02, 0.33), (0.3, 3.3)),
            # Most rectangles are too large, so some images stay whole.
            (16, 24, (0.7, 1.0), (0.3, 3.3)),
        ],
    )
    def test_the_rectangles_have_the_distribution_of_torchvisions(
        self, height: int, width: int, scale: tuple, ratio: tuple
    ) -> None:
        from scipy.stats import ks_2samp

        boxes = self.boxes(RandomErasing([1.0] * 3, 1.0, scale, ratio), height, width)
        reference = []
        transform = v2.RandomErasing(1.0, scale, ratio)
        torch.manual_seed(1)
        for _ in range(self.COUNT):
            drawn = transform.make_params([torch.zeros(3, height, width)])
            reference.append([drawn["i"], drawn["j"], drawn["h"], drawn["w"]])
            if drawn["v"] is None:
                reference[-1] = [0, 0, 0, 0]
        reference = torch.tensor(reference)
        for column in range(4):
            assert ks_2samp(boxes[:, column], reference[:, column]).pvalue > 1e-3
        area = [sizes[:, 2] * sizes[:, 3] for sizes in (boxes, reference)]
        assert ks_2samp(*area).pvalue > 1e-3
        untouched = [(areas == 0).double().mean().item() for areas in area]
        assert untouched[0] == pytest.approx(untouched[1], abs=0.05)
        if scale[0] == 0.7:
            assert 0.02 < untouched[0] < 0.98

    @pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
    def test_the_share_of_erased_images_is_the_probability(self, probability: float) -> None:
        found = self.boxes(RandomErasing([1.0] * 3, probability), 32, 32)
        share = (found[:, 2] > 0).double().mean().item()
        assert share == pytest.approx(probability, abs=0.03 if 0 < probability < 1 else 0)

    def test_it_fills_the_rectangle_with_the_mean(self, images: torch.Tensor) -> None:
        erased, _ = RandomErasing(MEAN, 1.0)(images, torch.zeros(40), generator())
        changed = (erased != images).any(1)
        normalized = erased - 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
        assert changed.any((1, 2)).all()
        assert (normalized.abs().sum(1)[changed] == 0).all()


class TestBeta:
    COUNT = 20_000

    @pytest.mark.parametrize("alpha", [0.001, 0.1, 0.2, 0.5, 1.0, 2.0, 8.0, 1000.0, 1e6])
    def test_the_distribution_is_beta(self, alpha: float) -> None:
        from scipy.stats import beta

        drawn = draw_beta(alpha, self.COUNT, generator()).double().sort().values
        assert drawn.isfinite().all()
        assert drawn[0] >= 0
        assert drawn[-1] <= 1
        # The Kolmogorov-Smirnov distance is computed at points that float32 distinguishes from 0
        # and 1. With alpha=0.001, 99% of the values are nearer to 0 or 1 than the points.
        middle = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
        spread = torch.tensor(
            beta.ppf([0.001, 0.01, *(i / 50 for i in range(1, 50))], alpha, alpha)
        )
        points = torch.cat([middle, spread[(spread > 1e-4) & (spread < 1 - 1e-4)]])
        below = torch.searchsorted(drawn, points, right=True) / self.COUNT
        distance = (below - torch.tensor(beta.cdf(points, alpha, alpha))).abs().max()
        # 1 in 1,000 distances is above this bound.
        assert distance < 1.95 / math.sqrt(self.COUNT)

    def test_the_lower_half_of_the_distribution_is_beta(self) -> None:
        from scipy.stats import beta, kstest

        drawn = draw_beta(0.2, self.COUNT, generator()).double().numpy()
        # Rounding to float32 matters below 1e-5 and near 1.
        lower, half = beta.cdf(1e-5, 0.2, 0.2), 0.5
        test = kstest(
            drawn[(drawn > 1e-5) & (drawn <= 0.5)],
            lambda numbers: (beta.cdf(numbers, 0.2, 0.2) - lower) / (half - lower),
        )
        assert test.pvalue > 1e-3


class TestMixing:
    @pytest.fixture
    @classmethod
    def labels(cls) -> torch.Tensor:
        return torch.randint(10, (40,), generator=generator(9))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_mixup_of_each_pair_equals_torchvisions(self, images, labels, dtype) -> None:
        partners = torch.randperm(40, generator=generator(1))
        shares = torch.rand(40, generator=generator(2))
        mixed = blend(images.to(dtype), partners, shares)
        mixed_labels = mix_labels(labels, partners, shares, 10)
        for index, partner in enumerate(partners):
            transform = v2.MixUp(alpha=1.0, num_classes=10)
            transform.make_params = lambda _, share=shares[index]: {"lam": share.item()}
            pair = torch.stack([torch.tensor(index), partner])
            # torchvision mixes the first of two images with the second.
            expected, expected_labels = transform(images[pair].float(), labels[pair])
            torch.testing.assert_close(mixed[index], expected[0], rtol=0, atol=1e-3)
            torch.testing.assert_close(mixed_labels[index], expected_labels[0])

    @pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 31)])
    def test_cutmix_of_each_pair_equals_torchvisions(
        self, images, labels, height: int, width: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = images[..., :height, :width]
        partners = torch.randperm(40, generator=generator(1))
        shares = torch.rand(40, generator=generator(2))
        y = torch.randint(height, (40,), generator=generator(3))
        x = torch.randint(width, (40,), generator=generator(4))
        mixed, kept = paste(images, partners, shares, y, x)
        mixed_labels = mix_labels(labels, partners, kept, 10)
        assert mixed.dtype == torch.uint8
        for index, partner in enumerate(partners):
            transform = v2.CutMix(alpha=1.0, num_classes=10)
            centre = iter([x[index : index + 1], y[index : index + 1]])
            pair = torch.stack([torch.tensor(index), partner])
            with monkeypatch.context() as patch:
                patch.setattr(transform._dist, "sample", lambda _, share=shares[index]: share)
                patch.setattr(torch, "randint", lambda *_, draws=centre, **__: next(draws))
                expected, expected_labels = transform(images[pair], labels[pair])
            assert torch.equal(mixed[index], expected[0])
            torch.testing.assert_close(mixed_labels[index], expected_labels[0])

    @pytest.mark.parametrize("name", MIXING)
    def test_the_mixed_labels_are_the_shares_of_the_pixels(self, name: str) -> None:
        # The pixels of an image have the number of its class, so the mean follows from the labels.
        numbers = torch.arange(100.0)
        batch = numbers.view(100, 1, 1, 1).expand(100, 3, 32, 32)
        mixed, shares = OPERATIONS[name]()(batch, torch.arange(100), generator())
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ numbers)
        assert ((shares > 0).sum(1) <= 2).all()
        own = shares.diagonal()
        assert (own < 1).sum() > 80
        if name != "CutMixOrMixUp":
            # Each image is the partner of exactly one.
            assert (shares - torch.diag(own) > 0).sum(0).max() == 1

    @pytest.mark.parametrize("name", ["CutMix", "MixUp"])
    @pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
    def test_the_share_of_mixed_images_is_the_probability(
        self, name: str, probability: float
    ) -> None:
        operation = getattr(augmentation, name)(2000, probability=probability)
        batch = torch.rand(2000, 3, 8, 8, generator=generator())
        mixed, shares = operation(batch, torch.arange(2000), generator())
        same = (mixed == batch).all((1, 2, 3))
        assert torch.equal(shares.diagonal()[same], torch.ones(int(same.sum())))
        if probability == 0:
            assert same.all()
        else:
            # Boxes without area leave about 1 in 16 images whole.
            assert 1 - same.double().mean().item() == pytest.approx(probability, abs=0.1)

    @pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
    def test_the_share_of_cutmix_is_its_probability(self, share: float) -> None:
        operation = CutMixOrMixUp(2000, cutmix_probability=share)
        batch = torch.rand(2000, 3, 8, 8, generator=generator())
        mixed, _ = operation(batch, torch.arange(2000), generator())
        # CutMix copies pixels, and MixUp makes new ones.
        cut = torch.isin(mixed, batch).flatten(1).all(1).double().mean().item()
        assert cut == pytest.approx(share, abs=0.04)

    def test_mixing_twice_mixes_the_shares(self, images, labels) -> None:
        mixed_once = MixUp(10)(images, labels, generator(1))
        _, mixed_twice = CutMix(10)(*mixed_once, generator(2))
        assert mixed_twice.shape == (40, 10)
        assert torch.allclose(mixed_twice.sum(1), torch.ones(40))
        # Mixed labels are mixed like images: as a weighted sum.
        partners, kept = torch.randperm(40), torch.rand(40)
        expected = kept[:, None] * mixed_once[1] + (1 - kept[:, None]) * mixed_once[1][partners]
        torch.testing.assert_close(mix_labels(mixed_once[1], partners, kept, 10), expected)


class TestColorJitter:
    @pytest.mark.parametrize(
        ("adjust", "torchvision_adjust", "lowest", "highest"),
        [
            (color.adjust_brightness, functional.adjust_brightness, 0.0, 2.0),
            (color.adjust_contrast, functional.adjust_contrast, 0.0, 2.0),
            (color.adjust_saturation, functional.adjust_saturation, 0.0, 2.0),
            (color.shift_hue, functional.adjust_hue, -0.5, 0.5),
        ],
    )
    def test_each_adjustment_equals_torchvisions(
        self, images, adjust, torchvision_adjust, lowest, highest
    ) -> None:
        # The hue is a special case for grays, pure colors, and channels of equal value.
        images = images.clone()
        images[0] = 77
        images[1, :, ::2] = images[1, :1, ::2]
        images[2, :2] = images[2, 1]
        images[3] = images[3] // 128 * 255
        factors = torch.linspace(lowest, highest, 40)
        changed = adjust(images.float(), factors)
        for index, image in enumerate(images):
            expected = 255 * torchvision_adjust(image / 255, factors[index].item())
            torch.testing.assert_close(changed[index], expected, rtol=0, atol=5e-3)

    def test_factors_are_in_their_ranges_and_applied_in_order(self, images: torch.Tensor) -> None:
        draws = torch.rand((4, 40), generator=generator(3))
        changed, _ = ColorJitter(0.4, 0.3, 2.0, 0.1)(images, torch.zeros(40), generator(3))
        for index, image in enumerate(images):
            brightness, contrast, saturation, hue = draws[:, index].tolist()
            expected = functional.adjust_brightness(image / 255, 0.6 + 0.8 * brightness)
            expected = functional.adjust_contrast(expected, 0.7 + 0.6 * contrast)
            expected = functional.adjust_saturation(expected, 3 * saturation)
            expected = 255 * functional.adjust_hue(expected, 0.1 * (2 * hue - 1))
            torch.testing.assert_close(changed[index], expected, rtol=0, atol=2e-2)

    def test_strength_0_changes_nothing(self, images: torch.Tensor) -> None:
        changed, _ = ColorJitter(0, 0, 0, 0)(images, torch.zeros(40), generator())
        torch.testing.assert_close(changed, images.float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (6, 3, 20, 37)])
def test_operations_keep_the_shape_of_gray_and_of_oblong_images(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "MEAN", MEAN[: shape[1]])
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
    changed, _ = OPERATIONS[name]()(batch, torch.arange(6), generator())
    assert changed.shape == shape
    assert changed.min() >= 0 and changed.max() <= 255


def test_gray_images_are_changed_as_an_rgb_image_with_equal_channels(images: torch.Tensor) -> None:
    """Saturation and hue don't change them."""
    gray = images[:, :1]
    jitter, labels = ColorJitter(0.4, 0.3, 2.0, 0.5), torch.zeros(40)
    changed, _ = jitter(gray, labels, generator())
    colored, _ = jitter(gray.expand(-1, 3, -1, -1), labels, generator())
    torch.testing.assert_close(changed.expand(-1, 3, -1, -1), colored, rtol=0, atol=0.1)
    changed, _ = TrivialAugment()(gray, labels, generator())
    colored, _ = TrivialAugment()(gray.expand(-1, 3, -1, -1), labels, generator())
    assert (changed.int() - colored.int()).abs().max() <= 2


class TestTrivialAugment:
    @pytest.mark.parametrize("bins", [2, 31])
    def test_it_equals_torchvisions_with_the_same_random_values(
        self, images, bins: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Every operation with every strength and both signs.
        draws = torch.cartesian_prod(torch.arange(14), torch.arange(bins), torch.arange(2))
        many = images.repeat(len(draws) // 40 + 1, 1, 1, 1)[: len(draws)]
        with monkeypatch.context() as patch:
            values = iter(draws.T)
            patch.setattr(trivial_augment.torch, "randint", lambda *_, **__: next(values))
            changed, _ = TrivialAugment(bins)(many, torch.zeros(len(many)), generator())
        assert changed.dtype == torch.uint8
        transform = v2.TrivialAugmentWide(num_magnitude_bins=bins)
        names = list(transform._AUGMENTATION_SPACE)
        assert len(names) == 14
        for index, (operation, strength, negative) in enumerate(draws.tolist()):
            with monkeypatch.context() as patch:
                values = iter([torch.tensor(operation), torch.tensor(strength)])
                patch.setattr(torch, "randint", lambda *_, it=values, **__: next(it))
                sign = torch.tensor(0.25 if negative else 0.75)
                patch.setattr(torch, "rand", lambda *_, sign=sign, **__: sign)
                expected = transform(many[index])
            assert torch.equal(changed[index], expected), (names[operation], strength, negative)

    def test_operations_and_strengths_are_drawn_uniformly(self) -> None:
        drawn = TrivialAugment(5).draw(14_000, generator())
        counts = [
            sum(operation == name for operation, _ in drawn) for name in trivial_augment.OPERATIONS
        ]
        # The expected count is 1,000, with a standard deviation of 30.
        assert min(counts) > 870
        assert max(counts) < 1130
        angles = sorted({strength for name, strength in drawn if name == "rotate"})
        assert angles == [-135, -101.25, -67.5, -33.75, 0, 33.75, 67.5, 101.25, 135]
        for angle in angles:
            share = drawn.count(("rotate", angle)) / 1000
            assert share == pytest.approx(0.2 if angle == 0 else 0.1, abs=0.05)

    def test_floats_are_rounded_and_clipped_to_bytes(self) -> None:
        batch = torch.tensor([99.4, 99.6, 300.0, -2.0]).view(1, 1, 1, 4).repeat(200, 3, 4, 1)
        changed, _ = TrivialAugment()(batch, torch.zeros(200), generator())
        assert torch.tensor([99, 100, 255, 0], dtype=torch.uint8).tolist() in (
            changed[:, 0, 0].tolist()
        )
