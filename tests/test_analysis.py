"""The results of `evaluate` and `features`, compared with independent computations."""

import csv
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import processes
import pytest
import torch
import torchvision
from conftest import Command, Once
from processes import assert_refused
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score
from torch import Tensor, nn

from resnet_sweep.analysis.activations import first_filters, stage_activations, strongest_channels
from resnet_sweep.analysis.classification_metrics import (
    BINS,
    classification_metrics,
    draw_confusion,
)
from resnet_sweep.analysis.dead_channels import by_stage, collect_maxima, dead_channels
from resnet_sweep.analysis.embedding import embed
from resnet_sweep.analysis.feature_report import FeatureReport
from resnet_sweep.analysis.grad_cam import grad_cam, overlay
from resnet_sweep.analysis.layers import Layers, NotApplicableError, collect_outputs, find_layers
from resnet_sweep.cli import main
from resnet_sweep.cli.features import choose_images
from resnet_sweep.data.digits import Digits
from resnet_sweep.errors import ConfigError
from resnet_sweep.models import ResNet
from resnet_sweep.models.zoo import torchvision_classifier
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.evaluation import FlipAverage, Normalize

CLASSES = [f"class {number}" for number in range(12)]


@pytest.fixture
def prediction() -> tuple[Tensor, Tensor]:
    """Return logits whose accuracy grows with their confidence, and labels of 11 of 12 classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 11, (600,), generator=generator)
    logits = torch.randn(600, 12, generator=generator)
    logits[torch.arange(600), labels] += 3 * torch.rand(600, generator=generator)
    return logits, labels


def small_resnet() -> ResNet:
    """Return a model with random BatchNorm statistics and biases, as after training."""
    torch.manual_seed(0)
    model = ResNet(7, widths=[8, 16], blocks=[1, 2], strides=[1, 2], dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.normal_(module.bias, std=0.5)
    return model.eval()


class TestClassificationMetrics:
    def test_metrics_equal_scikit_learns(self, prediction: tuple[Tensor, Tensor]) -> None:
        logits, labels = prediction
        metrics = classification_metrics(logits, labels, CLASSES)
        scores, predicted, class_numbers = logits.numpy(), logits.numpy().argmax(1), range(12)
        assert (
            metrics.confusion == confusion_matrix(labels, predicted, labels=class_numbers)
        ).all()
        recalls = recall_score(labels, predicted, labels=range(11), average=None)
        assert list(metrics.class_accuracy.values())[:11] == pytest.approx(100 * recalls)
        assert metrics.class_accuracy["class 11"] is None
        for k, accuracy in ((1, metrics.top1), (5, metrics.top5)):
            expected = top_k_accuracy_score(labels, scores, k=k, labels=class_numbers)
            assert accuracy == pytest.approx(100 * expected)

    def test_extreme_classes_have_the_highest_and_the_lowest_accuracy(
        self, prediction: tuple[Tensor, Tensor]
    ) -> None:
        metrics = classification_metrics(*prediction, CLASSES)
        ordered = sorted(value for value in metrics.class_accuracy.values() if value is not None)
        assert [value for _, value in metrics.extreme_classes(best=False)] == ordered[:5]
        assert [value for _, value in metrics.extreme_classes(best=True)] == ordered[:-6:-1]
        for name, value in metrics.extreme_classes(best=True) + metrics.extreme_classes(best=False):
            assert metrics.class_accuracy[name] == value

    def test_confused_pairs_are_the_most_frequent_mistakes(
        self, prediction: tuple[Tensor, Tensor]
    ) -> None:
        logits, labels = prediction
        predicted = logits.argmax(1).tolist()
        mistakes = Counter(
            (CLASSES[label], CLASSES[predicted_class])
            for label, predicted_class in zip(labels.tolist(), predicted, strict=True)
            if label != predicted_class
        )
        pairs = classification_metrics(logits, labels, CLASSES).confused_pairs
        assert [pair.images for pair in pairs] == [count for _, count in mistakes.most_common(10)]
        for pair in pairs:
            assert mistakes[pair.true, pair.predicted] == pair.images
            assert pair.class_images == labels.tolist().count(CLASSES.index(pair.true))

    def test_a_perfect_prediction_has_no_confused_pairs(self) -> None:
        metrics = classification_metrics(100 * torch.eye(3), torch.arange(3), ["a", "b", "c"])
        assert metrics.confused_pairs == []
        assert metrics.calibration.error == pytest.approx(0, abs=1e-9)

    def test_calibration_error_follows_the_formula_of_guo_et_al(
        self, prediction: tuple[Tensor, Tensor]
    ) -> None:
        """ECE = sum over the bins of |B| / n * |acc(B) - conf(B)|, B in ((m - 1) / M, m / M]."""
        logits, labels = prediction
        members: dict[int, list[tuple[float, bool]]] = {}
        for scores, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
            probabilities = np.exp(scores) / np.exp(scores).sum()
            predicted_class = int(np.argmax(probabilities))
            bin_ = next(m for m in range(1, BINS + 1) if probabilities[predicted_class] <= m / BINS)
            members.setdefault(bin_, []).append(
                (probabilities[predicted_class], predicted_class == label)
            )
        expected = sum(
            len(bin_members)
            / len(labels)
            * abs(
                np.mean([correct for _, correct in bin_members])
                - np.mean([confidence for confidence, _ in bin_members])
            )
            for bin_members in members.values()
        )
        calibration = classification_metrics(logits, labels, CLASSES).calibration
        assert expected > 0.05
        assert calibration.error == pytest.approx(100 * expected)
        assert [bin_.images for bin_ in calibration.bins] == [
            len(members.get(m, [])) for m in range(1, BINS + 1)
        ]


def test_flip_average_is_the_mean_of_an_images_and_its_mirror_images_probabilities() -> None:
    model, images = small_resnet(), torch.randn(5, 3, 16, 16)
    mirrored = torch.from_numpy(images.numpy()[..., ::-1].copy())
    with torch.no_grad():
        expected = (model(images).softmax(1) + model(mirrored).softmax(1)) / 2
        averaged = FlipAverage(model)(images)
    torch.testing.assert_close(averaged.exp(), expected)
    torch.testing.assert_close(averaged.softmax(1), expected)


class TestLayers:
    def test_recorded_outputs_are_not_changed_by_in_place_operations(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
        images = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            expected, before = model(images), model[0](images)
            with collect_outputs({"first": model[0], "relu": model[1]}) as outputs:
                assert torch.equal(model(images), expected)
        assert torch.equal(outputs["first"], before)
        assert torch.equal(outputs["relu"], before.clamp(min=0))
        assert not model[0]._forward_hooks

    def test_stages_of_a_resnet_are_its_stem_and_stages(self) -> None:
        model, images = small_resnet(), torch.randn(2, 3, 16, 16)
        activations = stage_activations(model, find_layers(model, images), images)
        with torch.no_grad():
            stem = model.stem(images)
            first = model.stages[0](stem)
            second = model.stages[1](first)
        assert list(activations) == ["stem", "stages.0", "stages.1"]
        for maps, expected in zip(activations.values(), (stem, first, second), strict=True):
            np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-5)

    def test_stages_of_another_network_are_its_modules_with_feature_maps(self) -> None:
        model = torchvision.models.resnet18(num_classes=7).eval()
        layers = find_layers(model, torch.randn(1, 3, 64, 64))
        assert list(layers.stages) == [
            "conv1",
            "bn1",
            "relu",
            "maxpool",
            "layer1",
            "layer2",
            "layer3",
            "layer4",
        ]
        assert layers.features is model.layer4
        assert layers.classifier is model.fc
        assert np.array_equal(first_filters(model), model.conv1.weight.detach())

    def test_the_strongest_channels_have_the_largest_mean_absolute_value(self) -> None:
        maps = np.random.default_rng(0).normal(size=(3, 6, 4, 4)) * np.arange(1, 7)[:, None, None]
        for image, chosen in zip(maps, strongest_channels(maps)[0], strict=True):
            strength = [sum(abs(value) for value in channel.flat) for channel in image]
            assert list(chosen) == sorted(range(6), key=lambda c: -strength[c])[:3]


class TestGradCam:
    """Grad-CAM equals CAM if a mean over the image and a linear layer follow the features.

    CAM is the sum of the features, weighted by the linear layer: equation 2 of Zhou et al.,
    "Learning Deep Features for Discriminative Localization", 2016. The gradient of the mean adds
    the factor 1 / (h * w).
    """

    def test_grad_cam_of_a_resnet_is_its_class_activation_map(self) -> None:
        model, images = small_resnet(), torch.randn(5, 3, 16, 16)
        classes = torch.tensor([0, 3, 6, 3, 1])
        with torch.no_grad():
            features = torch.relu(model.norm(model.stages(model.stem(images))))
        cam = torch.einsum("bk,bkhw->bhw", model.classifier.weight.detach()[classes], features)
        maps = grad_cam(model, find_layers(model, images), images, classes)
        assert (cam > 0).any() and (cam < 0).any()
        torch.testing.assert_close(maps * 8 * 8, cam.clamp(min=0))

    def test_grad_cam_of_torchvisions_resnet_is_its_class_activation_map(self) -> None:
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=7).eval()
        images, classes = torch.randn(3, 3, 64, 64), torch.tensor([2, 0, 6])
        with torch.no_grad(), collect_outputs({"last": model.layer4}) as outputs:
            model(images)
        cam = torch.einsum("bk,bkhw->bhw", model.fc.weight.detach()[classes], outputs["last"])
        maps = grad_cam(model, find_layers(model, images), images, classes)
        torch.testing.assert_close(maps * 2 * 2, cam.clamp(min=0))

    @pytest.mark.parametrize("activation", [0.0, 0.3])
    def test_a_map_is_scaled_by_its_maximum_and_blended_with_the_image(
        self, activation: float
    ) -> None:
        image = np.random.default_rng(0).integers(256, size=(8, 12, 3), dtype=np.uint8)
        color = np.array(matplotlib.colormaps["inferno"](1.0 if activation else 0.0)[:3])
        expected = 0.4 * image + 0.6 * 255 * color
        blended = overlay(torch.full((2, 3), activation), image)
        assert blended.dtype == np.uint8
        assert np.abs(blended - expected).max() <= 0.51


class TestDeadChannels:
    def test_a_channel_is_dead_if_it_is_zero_for_every_image(self) -> None:
        model = small_resnet()
        block = model.stages[1][1]
        for norm, dead in ((model.norm, [0, 5, 9]), (block.norm1, [2]), (block.norm2, [3, 4])):
            norm.weight.data[dead] = 0
            norm.bias.data[dead] = torch.tensor([0.0, -1.0, -2.0])[: len(dead)]
        with torch.no_grad(), collect_maxima(model) as maxima:
            for images in torch.randn(200, 3, 16, 16).split(80):
                model(images)
        layers = {layer.layer: layer for layer in dead_channels(maxima)}
        assert list(layers) == [
            "stages.0.0.relu, call 1",
            "stages.0.0.relu, call 2",
            "stages.1.0.relu, call 1",
            "stages.1.0.relu, call 2",
            "stages.1.1.relu, call 1",
            "stages.1.1.relu, call 2",
            "relu",
        ]
        assert [layer.channels for layer in layers.values()] == [8, 8, 8, 16, 16, 16, 16]
        assert [layer.dead for layer in layers.values()] == [0, 0, 0, 0, 1, 2, 3]
        assert [
            (stage.layer, stage.channels, stage.dead) for stage in by_stage([*layers.values()])
        ] == [
            ("stages.0", 16, 0),
            ("stages.1", 56, 3),
            ("relu", 16, 3),
        ]

    def test_a_channel_that_one_image_activates_is_not_dead(self) -> None:
        model = nn.Sequential(nn.Identity(), nn.ReLU())
        images = -torch.ones(300, 2, 4, 4)
        images[250, 1, 3, 3] = 1e-6
        with collect_maxima(model) as maxima:
            for batch in images.split(100):
                model(batch)
        assert [(layer.channels, layer.dead) for layer in dead_channels(maxima)] == [(2, 1)]


def test_the_confusion_matrix_is_drawn_in_percent_of_each_true_class() -> None:
    matrix = np.array([[1, 0, 0], [1, 3, 0], [0, 0, 0]])
    (axes, *_) = draw_confusion(matrix, ["a", "b", "c"], "title").axes
    # A class without images has an empty row.
    assert axes.images[0].get_array().tolist() == [[100, 0, 0], [25, 75, 0], [0, 0, 0]]


class TestEmbedding:
    def test_embedding_separates_clusters_and_is_reproducible(self) -> None:
        generator = np.random.default_rng(0)
        labels = np.repeat(np.arange(4), 30)
        centers = 20 * generator.normal(size=(4, 64))
        features = (centers[labels] + generator.normal(size=(120, 64))).astype(np.float32)
        points = embed(features)
        distances = np.linalg.norm(points[:, None] - points, axis=2)
        np.fill_diagonal(distances, np.inf)
        assert (labels[distances.argmin(1)] == labels).all()
        assert np.array_equal(points, embed(features))

    def test_embedding_needs_three_images_that_are_not_all_equal(self) -> None:
        assert embed(np.eye(3, 5, dtype=np.float32)).shape == (3, 2)
        for same in (np.eye(2, 5), np.ones((40, 5))):
            with pytest.raises(NotApplicableError):
                embed(same.astype(np.float32))


def test_parts_that_do_not_apply_to_a_network_say_why() -> None:
    dataset = Digits(limit_test=20).load(0)
    cpu = torch.device("cpu")
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    normalize = Normalize(dataset.mean, dataset.std, cpu)
    report = FeatureReport(perceptron, dataset, normalize, cpu, "float32", [0, 1])
    reasons = {}
    for part, draw in report.parts().items():
        try:
            assert draw()
        except NotApplicableError as error:
            reasons[part] = str(error)
    assert reasons.keys() == {"filters", "activations", "grad_cam", "dead_channels"}
    assert "convolution" in reasons["filters"]
    assert "ReLU" in reasons["dead_channels"]
    with pytest.raises(NotApplicableError):
        stage_activations(perceptron, Layers({}, None, None), torch.zeros(1, 3, 32, 32))


@pytest.fixture(scope="module")
def run_directory(once: Once) -> Path:
    """Return the directory of a small run. Tests may only read it."""

    def make(folder: Path) -> None:
        result = processes.run(
            folder,
            "experiment=quickstart",
            "augmentation=standard",
            "data.limit_train=300",
            "trainer.epochs=2",
            "trainer.threads=1",
            "trainer.device=cpu",
            "trainer.precision=float32",
            "hydra.run.dir=run",
        )
        assert result.returncode == 0, result.stderr

    return once("analysis", make) / "run"


@pytest.fixture
def run_copy(run_directory: Path, tmp_path: Path) -> Path:
    """Return a copy of the small run's directory."""
    return shutil.copytree(run_directory, tmp_path / "run")


def plain_prediction(directory: Path, mirror: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the run's best weights on the test set, and its labels."""
    dataset = Digits(size=16).load(0)
    images = dataset.test.images[dataset.test.indices] / 255.0
    mean, std = (np.array(values)[:, None, None] for values in (dataset.mean, dataset.std))
    images = ((images - mean) / std)[..., :: -1 if mirror else 1].astype(np.float32)
    model = ResNet(10, widths=[16, 32, 64], blocks=[1, 1, 1], strides=[1, 2, 2]).eval()
    model.load_state_dict(read_checkpoint(directory / "checkpoints" / BEST)["model"])
    with torch.no_grad():
        probabilities = model(torch.from_numpy(images.copy())).softmax(1).numpy()
    return probabilities, dataset.test.labels[dataset.test.indices]


def is_image(path: Path) -> bool:
    return min(matplotlib.image.imread(path).shape[:2]) > 100


class TestEvaluate:
    def test_evaluate_prints_and_writes_the_metrics_of_the_best_checkpoint(
        self, run_copy: Path, command: Command
    ) -> None:
        result = command("evaluate", run_copy)
        assert result.returncode == 0, result.stderr
        written = json.loads((run_copy / "evaluation" / "evaluation.json").read_text())
        scores, labels = plain_prediction(run_copy)
        predicted = scores.argmax(1)
        assert written["flip"] is False
        assert written["confusion"] == confusion_matrix(labels, predicted).tolist()
        recalls = recall_score(labels, predicted, average=None)
        assert list(written["class_accuracy"].values()) == pytest.approx(100 * recalls)
        assert list(written["class_accuracy"]) == written["classes"] == [str(n) for n in range(10)]
        assert written["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5))
        assert sum(bin_["images"] for bin_ in written["calibration"]["bins"]) == 360
        worst = int(recalls.argmin())
        for value in (
            f"{written['top1']:.2f}%",
            f"{written['top5']:.2f}%",
            f"{written['calibration']['error']:.2f}%",
            f"{worst} {100 * recalls[worst]:.1f}%",
        ):
            assert value in result.stdout
        assert written["confused_pairs"]
        for pair in written["confused_pairs"]:
            values = (pair[name] for name in ("true", "predicted", "images", "class_images"))
            line = r"^\D*" + r"\D+".join(map(str, values)) + r"\D*$"
            assert re.search(line, result.stdout, re.MULTILINE)
        assert is_image(run_copy / "evaluation" / "confusion.png")
        assert is_image(run_copy / "evaluation" / "reliability.png")

    def test_evaluate_ignores_a_missing_reference_and_escapes_control_characters(
        self, run_copy: Path, tmp_path: Path, call: Command
    ) -> None:
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        del record["digest"]
        # The reference doesn't exist any more, and two texts contain escape sequences.
        record["config"] |= {"objective": "distance_to_reference", "reference": "gone/away"}
        record |= {"reason": "\x1b]0;title\x07", "notes": ["\x1b[2J"]}
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        result = call(main, "evaluate", "run")
        assert result.returncode == 0, result.stderr
        assert "\x1b" not in result.stdout
        record["state"] = "\x1b]0;title\x07"
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        result = call(main, "evaluate", "run")
        assert_refused(result, r"\x1b]0;title\x07")
        assert "\x1b" not in result.stderr

    def test_flip_averages_the_predictions_and_is_named_in_each_line_and_file(
        self, run_copy: Path, call: Command
    ) -> None:
        result = call(main, "evaluate", run_copy, "--flip")
        assert result.returncode == 0, result.stderr
        written = json.loads((run_copy / "evaluation" / "evaluation_flip.json").read_text())
        upright, labels = plain_prediction(run_copy)
        mirrored, _ = plain_prediction(run_copy, mirror=True)
        predicted = (upright + mirrored).argmax(1)
        assert written["flip"] is True
        assert written["confusion"] == confusion_matrix(labels, predicted).tolist()
        flip_lines = [line for line in result.stdout.splitlines() if "flip" in line]
        recalls = written["class_accuracy"]
        best, worst = (extreme(recalls, key=recalls.get) for extreme in (max, min))
        for value in (
            f"{written['top1']:.2f}%",
            f"{written['top5']:.2f}%",
            f"{written['loss']:.4f}",
            f"{written['calibration']['error']:.2f}%",
            f"{best} {recalls[best]:.1f}%",
            f"{worst} {recalls[worst]:.1f}%",
        ):
            assert any(value in line for line in flip_lines), value
        assert is_image(run_copy / "evaluation" / "confusion_flip.png")
        assert is_image(run_copy / "evaluation" / "reliability_flip.png")

    def test_a_directory_that_cannot_be_written_is_reported_after_the_metrics(
        self, run_copy: Path, call: Command
    ) -> None:
        (run_copy / "evaluation").write_text("a file")
        result = call(main, "evaluate", run_copy)
        assert_refused(result, str(run_copy / "evaluation"))
        assert re.search(r"\d\.\d\d%", result.stdout)


class TestFeatures:
    def test_features_writes_each_part_as_an_image_and_as_data(
        self, run_copy: Path, command: Command
    ) -> None:
        result = command("features", run_copy)
        assert result.returncode == 0, result.stderr
        folder = run_copy / "features"
        data = {
            "filters": "npz",
            "activations": "npz",
            "grad_cam": "npz",
            "embedding": "csv",
            "dead_channels": "json",
        }
        assert {path.name for path in folder.iterdir()} == {
            *(f"{part}.png" for part in data),
            *(f"{part}.{kind}" for part, kind in data.items()),
            "augmentation.png",
        }
        assert is_image(folder / "augmentation.png")
        for part, kind in data.items():
            assert is_image(folder / f"{part}.png")
            assert any(
                f"{part}.png" in line and f"{part}.{kind}" in line
                for line in result.stdout.splitlines()
            )

        scores, labels = plain_prediction(run_copy)
        state = read_checkpoint(run_copy / "checkpoints" / BEST)["model"]
        filters = np.load(folder / "filters.npz")["filters"]
        assert np.array_equal(filters, state["stem.weight"].numpy())

        maps = np.load(folder / "grad_cam.npz")
        first = [int(np.flatnonzero(labels == label)[0]) for label in range(8)]
        assert maps["positions"].tolist() == first
        assert maps["labels"].tolist() == list(range(8))
        assert (maps["predicted"] == scores.argmax(1)[first]).all()
        assert maps["predicted_maps"].shape == maps["true_maps"].shape == (8, 4, 4)
        assert np.load(folder / "activations.npz")["stages.2 mean"].shape == (8, 4, 4)

        with (folder / "embedding.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["position", "x", "y", "label", "predicted"]
        assert [int(row["position"]) for row in rows] == list(range(360))
        assert [int(row["label"]) for row in rows] == labels.tolist()
        assert [int(row["predicted"]) for row in rows] == scores.argmax(1).tolist()

        counts = json.loads((folder / "dead_channels.json").read_text())
        assert counts["images"] == 360
        assert sum(layer["channels"] for layer in counts["layers"]) == 240
        dead = sum(layer["dead"] for layer in counts["layers"])
        assert re.search(rf"\b240 +{dead}\b", result.stdout)

    def test_chosen_images_are_those_of_the_option_without_repetitions(self) -> None:
        assert choose_images("9,0,9", Digits(size=16).load(0).test) == [9, 0]

    @pytest.mark.slow
    def test_features_uses_the_images_of_the_option(self, run_copy: Path, call: Command) -> None:
        result = call(main, "features", run_copy, "--images", "9,0,9")
        assert result.returncode == 0, result.stderr
        test = Digits(size=16).load(0).test
        for part in ("activations", "grad_cam"):
            data = np.load(run_copy / "features" / f"{part}.npz")
            assert data["positions"].tolist() == [9, 0]
            expected = test.images[test.indices[[9, 0]]].transpose(0, 2, 3, 1)
            assert np.array_equal(data["images"], expected)

    @pytest.mark.parametrize(
        ("images", "facts"),
        [
            ("1,two", ["--images=1,two"]),
            ("", ["--images="]),
            ("0,360", ["--images=0,360", "359"]),
            ("-1", ["-1", "359"]),
            (",".join(map(str, range(65))), ["--images", "65", "64"]),
        ],
    )
    def test_wrong_image_positions_are_refused(self, images: str, facts: list[str]) -> None:
        with pytest.raises(ConfigError) as refusal:
            choose_images(images, Digits(size=16).load(0).test)
        assert all(fact in str(refusal.value) for fact in facts)

    def test_a_refused_features_command_writes_nothing(self, run_copy: Path, call: Command) -> None:
        assert_refused(call(main, "features", run_copy, "--images=360"), "--images=360", "359")
        assert not (run_copy / "features").exists()


@pytest.mark.parametrize("subcommand", ["evaluate", "features"])
def test_a_run_without_a_checkpoint_is_refused_and_nothing_is_written(
    run_directory: Path, call: Command, tmp_path: Path, subcommand: str
) -> None:
    shutil.copy(run_directory / "run.json", tmp_path)
    assert_refused(call(main, subcommand, tmp_path), BEST)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "name", [pytest.param("vgg11_bn", marks=pytest.mark.slow), "mobilenet_v3_small", "resnet18"]
)
def test_the_feature_maps_of_a_classifiers_stages_become_smaller(name: str) -> None:
    model = torchvision_classifier(10, name).eval()
    images = torch.zeros(1, 3, 32, 32)
    layers = find_layers(model, images)
    with torch.inference_mode(), collect_outputs(layers.stages) as outputs:
        model(images)
    sizes = [output.shape[-1] for output in outputs.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) >= 4


@pytest.mark.parametrize("subcommand", ["evaluate", "features"])
def test_a_logged_run_is_refused_because_it_has_no_weights(subcommand: str, call: Command) -> None:
    result = call(main, subcommand, "logged_run_1")
    assert_refused(result, "logged_run_1")
    # The message for an unknown name would list all logged runs.
    assert "logged_run_2" not in result.stderr
