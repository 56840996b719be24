"""Exported networks compute what the network of the run computes."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Command
from PIL import Image
from processes import assert_refused, clean_environment
from safetensors.torch import load_file, save
from small_run import config, train
from torch import Tensor, nn

import resnet_sweep
from resnet_sweep.cli import main
from resnet_sweep.config import export
from resnet_sweep.config.plan import plan_run
from resnet_sweep.config.restore import load_network
from resnet_sweep.data import Digits, ImageFolder
from resnet_sweep.models import ResNet

HAS_ONNX = all(importlib.util.find_spec(name) for name in export.ONNX_PACKAGES)
ONNX = pytest.param(
    ".onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx isn't installed")
)
BLOCKS = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small run once, and return its directory."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    train(plan_run(config(trainer__epochs=1)), directory)
    return directory


def load(file: Path, directory: Path) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images to logits that uses an exported file."""
    if file.suffix == ".safetensors":
        network = load_network(directory)
        nn.Module.apply(network.network, reset)
        network.network.load_state_dict(load_file(file))
        return network
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def reset(module: nn.Module) -> None:
    for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        weight.data.zero_()


@pytest.mark.parametrize("ending", [".safetensors", ".pt2", ONNX])
def test_a_file_has_the_logits_of_the_run_for_batches_of_any_size(
    run: Path, call: Command, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.from_numpy(Digits().load(0).test.images[:7].copy())
    # The data of the run aren't needed.
    monkeypatch.setattr(Digits, "load", None)
    file = tmp_path / f"network{ending}"
    file.write_text("replaced")
    result = call(main, "export", run, "-o", file)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f"{file.name}.json"}
    network = load_network(run)
    logits = load(file, run)
    for size in (1, 2, 7):
        with torch.no_grad():
            torch.testing.assert_close(
                logits(images[:size]), network(images[:size]), rtol=1e-4, atol=1e-4
            )


def test_the_description_is_enough_to_build_and_to_use_the_network(
    run: Path, tmp_path: Path
) -> None:
    record = resnet_sweep.load_run(run).record
    file = resnet_sweep.load_run(run).export(tmp_path / "network.safetensors")
    found = json.loads((tmp_path / "network.safetensors.json").read_text())
    assert found["classes"] == [str(digit) for digit in range(10)]
    assert found["image_shape"] == [*Digits().load(0).train.images.shape[1:]]
    assert found["model"]["class"] == record.config["model"]["_target_"]
    assert found["run"]["signature"] == record.signature
    assert found["run"]["epoch"] == record.best["epoch"]
    assert found["input"]["normalized"]
    network = ResNet(**found["model"]["arguments"])
    assert {*network.state_dict()} == {*load_file(file)}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx isn't installed")
def test_the_examples_of_the_page_work_without_this_package(run: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    onnx, program, weights = BLOCKS.findall(page)
    trained = resnet_sweep.load_run(run)
    for ending in export.FORMATS:
        trained.export(tmp_path / f"network{ending}")
    Image.effect_noise((20, 10), 90).convert("RGB").save(tmp_path / "photo.png")
    _, height, width = trained.load_model().data.image_shape
    # The images of a training are read in the same way.
    for part in ("train/photos", "train/others", "val/photos", "val/others"):
        (tmp_path / "data" / part).mkdir(parents=True)
        shutil.copy(tmp_path / "photo.png", tmp_path / "data" / part)
    dataset = ImageFolder(root=str(tmp_path / "data"), size=[height, width]).load(0)
    resized = dataset.train.images[dataset.train.indices][:1]
    expected = load_network(run)(torch.as_tensor(resized))
    hidden = "import sys; sys.modules['resnet_sweep'] = None\n"
    shown = "print(*logits.flatten().tolist())\n"
    # The weights need the class of the network, which is in this package.
    for code in (hidden + onnx + shown + program, onnx + weights):
        result = subprocess.run(
            [sys.executable, "-c", code + shown],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        name, *lines = result.stdout.splitlines()
        for logits in lines:
            np.testing.assert_allclose(
                [*map(float, logits.split())], expected[0].detach(), rtol=1e-3, atol=1e-3
            )
        assert name == str(int(expected.argmax()))


def test_a_file_with_other_logits_is_refused_and_not_written(
    run: Path, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other_weights(network: nn.Module) -> bytes:
        return save({name: 2.0 * w for name, w in network.network.state_dict().items()})

    wrong = export.FORMATS[".safetensors"]._replace(write=write_other_weights)
    monkeypatch.setitem(export.FORMATS, ".safetensors", wrong)
    result = call(main, "export", run, "-o", "network.safetensors")
    assert_refused(result, ".safetensors", "differ")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("output", "facts"),
    [
        ("network.pth", ("network.pth", ".safetensors", ".pt2", ".onnx")),
        ("network", ("network", ".onnx")),
        ("missing/network.safetensors", ("missing/network.safetensors", "-o")),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(
    run: Path, call: Command, tmp_path: Path, output: str, facts: tuple[str, ...]
) -> None:
    assert_refused(call(main, "export", run, "-o", output), *facts)
    assert not [*tmp_path.iterdir()]


def test_runs_without_weights_are_refused(run: Path, call: Command, tmp_path: Path) -> None:
    assert_refused(call(main, "export", "logged_run_1", "-o", "a.pt2"), "logged_run_1")
    assert_refused(call(main, "export", "nowhere", "-o", "a.pt2"), "nowhere")
    assert_refused(call(main, "export", run), "-o")
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy/checkpoints/best_model.pth").unlink()
    assert_refused(call(main, "export", "copy", "-o", "a.pt2"), "best_model.pth")


def test_onnx_without_its_packages_names_them_and_the_extra(
    run: Path, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx_of_nobody",))
    assert_refused(
        call(main, "export", run, "-o", "a.onnx"), "onnx_of_nobody", "resnet-sweep[onnx]"
    )


def test_a_network_that_torch_cannot_export_is_refused_with_the_reason(
    run: Path, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def depends_on_values(self: nn.Module, images: Tensor) -> Tensor:
        return self.network(images.float()) if images.sum() > 0 else images.new_zeros(1, 10)

    monkeypatch.setattr(type(load_network(run)), "forward", depends_on_values)
    assert_refused(call(main, "export", run, "-o", "a.pt2"), ".pt2", ".safetensors")
