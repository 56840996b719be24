"""Starting weights, frozen weights, and a lower learning rate for all but the classifier."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import best_row
from resnet_sweep.training.fine_tuning import classifier_names, frozen_names
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.trainer import Trainer
from tests.small_run import (
    RESNET,
    StopAt,
    assert_same_bits,
    config,
    open_run,
    train,
    weights,
)

SHORT = {"trainer__epochs": 1, "trainer__max_steps": 2, "schedule__warmup_epochs": 0}


def train_source(directory: Path, **changes: object) -> Trainer:
    """Train a run whose best weights other runs start from."""
    run = open_run(planned := plan_run(config(**(SHORT | changes))), directory)
    trainer = planned.build_trainer()
    trainer.fit(run, (), StopSignal())
    run.record.best = {k: best_row(trainer.rows)[k] for k in ("epoch", "val_acc", "val_loss")}
    run.close("finished")
    return trainer


def initial(path: Path, **changes: object) -> dict[str, torch.Tensor]:
    """Return the weights of a run from `path` before its first step."""
    trainer = plan_run(config(init_from=str(path), **changes)).build_trainer()
    trainer._load_starting_weights(trainer.starting_weights)
    return weights(trainer)


def test_a_run_starts_from_the_best_weights_of_another_run(tmp_path: Path) -> None:
    source = train_source(tmp_path / "a")
    found = initial(tmp_path / "a")
    for name, tensor in weights(source).items():
        assert torch.equal(found[name], tensor), name


def test_the_averaged_weights_of_a_run_are_the_starting_weights(tmp_path: Path) -> None:
    source = train_source(tmp_path / "a", trainer__ema_decay=0.9)
    averaged = source.emas[0].model.state_dict()
    for path in (tmp_path / "a", tmp_path / "a" / "checkpoints" / "last_model.pth"):
        found = initial(path)
        assert all(torch.equal(found[name], averaged[name]) for name in averaged)
    assert not torch.equal(averaged["stem.weight"], weights(source)["stem.weight"])


def test_a_classifier_for_other_classes_stays_random_and_is_noted(tmp_path: Path) -> None:
    state = weights(plan_run(config(**SHORT)).build_trainer())
    state |= {"classifier.weight": torch.ones(7, 8), "classifier.bias": torch.ones(7)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    settings = config(init_from=str(tmp_path / "a.pth"))
    planned = plan_run(settings)
    assert any("classifier.weight" in note and "7" in note for note in planned.notes)
    found, random = initial(tmp_path / "a.pth"), weights(plan_run(config()).build_trainer())
    assert torch.equal(found["classifier.weight"], random["classifier.weight"])
    assert torch.equal(found["stem.weight"], state["stem.weight"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stem.weight": None}, "stem.weight"),
        ({"more.bias": torch.zeros(2)}, "more.bias"),
        ({"stem.weight": torch.zeros(4, 3, 5, 5)}, "stem.weight"),
    ],
)
def test_other_mismatches_are_refused_by_name(tmp_path: Path, change: dict, named: str) -> None:
    state = weights(plan_run(config()).build_trainer()) | change
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ConfigError) as error:
        plan_run(config(init_from=str(tmp_path / "a.pth")))
    assert named in str(error.value)


def test_an_argument_that_would_load_weights_is_refused() -> None:
    network = {"_target_": "resnet_sweep.models.torchvision_classifier", "name": "resnet18"}
    with pytest.raises(ConfigError, match="init_from=pretrained"):
        plan_run(config(model=network | {"pretrained": True}))


def test_code_in_a_file_of_weights_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Hostile()}, tmp_path / "a.pth")
    with pytest.raises(ConfigError):
        plan_run(config(init_from=str(tmp_path / "a.pth")))
    assert not (tmp_path / "executed").exists()


def test_the_signature_depends_on_the_weights_and_not_on_their_path(tmp_path: Path) -> None:
    state = weights(plan_run(config()).build_trainer())
    torch.save(state, tmp_path / "a.pth")
    torch.save(dict(reversed(state.items())), tmp_path / "b.pth")
    torch.save(state | {"stem.weight": state["stem.weight"] + 1}, tmp_path / "c.pth")
    first, same, other = (
        plan_run(config(init_from=str(tmp_path / f"{name}.pth"))).signature for name in "abc"
    )
    assert first == same
    assert len({first, other, plan_run(config()).signature}) == 3
    assert plan_run(config(init_from=None)).signature == plan_run(config()).signature


def test_a_run_resumes_exactly_after_its_starting_weights_were_removed(tmp_path: Path) -> None:
    train_source(tmp_path / "source")
    settings = config(init_from=str(tmp_path / "source"), trainer__freeze=["stem", "stages.0"])
    complete = train(plan_run(settings), tmp_path / "complete")
    run = open_run(planned := plan_run(settings), tmp_path / "stopped")
    stop = StopSignal()
    with pytest.raises(Interrupted):
        planned.build_trainer().fit(run, [StopAt(stop, 10)], stop)
    run.close("interrupted")
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(ConfigError):
        plan_run(settings, directory=tmp_path / "new")
    again = plan_run(settings, directory=tmp_path / "stopped")
    assert again.signature == planned.signature
    assert_same_bits(train(again, tmp_path / "stopped"), complete)


def test_changed_starting_weights_are_refused_when_the_run_starts(tmp_path: Path) -> None:
    state = weights(plan_run(config()).build_trainer())
    torch.save(state, tmp_path / "a.pth")
    planned = plan_run(config(init_from=str(tmp_path / "a.pth")))
    torch.save(state | {"stem.weight": state["stem.weight"] + 1}, tmp_path / "a.pth")
    run = open_run(planned, tmp_path / "run")
    with pytest.raises(ConfigError):
        planned.build_trainer().fit(run, (), StopSignal())
    run.close("failed")


def test_frozen_weights_and_their_batch_norm_statistics_do_not_change(tmp_path: Path) -> None:
    settings = config(trainer__freeze=["stem", "stages.0"])
    planned = plan_run(settings)
    before = {name: tensor.clone() for name, tensor in weights(planned.build_trainer()).items()}
    after = weights(train(planned, tmp_path / "run"))
    for name, tensor in after.items():
        frozen = name.startswith(("stem.", "stages.0."))
        assert torch.equal(tensor, before[name]) == frozen, name
    every = sum(tensor.numel() for tensor in planned.build_trainer().model.parameters())
    assert 0 < planned.parameters < every


def test_patterns_match_weights_or_modules() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    assert frozen_names(model, ["0"]) == {"0.weight", "0.bias"}
    assert frozen_names(model, ["*.bias"]) == {"0.bias", "1.0.bias", "1.1.bias"}
    assert frozen_names(model, ["1.?"]) == {"1.0.weight", "1.0.bias", "1.1.weight", "1.1.bias"}
    assert frozen_names(model, []) == set()
    with pytest.raises(ConfigError, match=r"1\.1\.weight"):
        frozen_names(model, ["1.1.wieght"])
    with pytest.raises(ConfigError):
        frozen_names(model, ["*"])


def rates(trainer: Trainer) -> dict[str, float]:
    """Return the learning rate of each trained weight by its name."""
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    lr = trainer.schedule(trainer.global_step)
    return {
        names[id(weight)]: lr * group.get("lr_scale", 1.0)
        for group in trainer.optimizer.param_groups
        for weight in group["params"]
    }


OPTIMIZERS = {
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 0.01},
    "muon": {"_target_": "resnet_sweep.training.optimizers.Muon", "lr": 0.02, "rest_lr": 0.05},
}


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_factor_applies_to_all_weights_but_the_classifier(name: str, decay: bool) -> None:
    optim = OPTIMIZERS[name] | {"decay_norm_and_bias": decay}
    plain, scaled = (
        rates(plan_run(config(optim=optim, trainer__backbone_lr_factor=factor)).build_trainer())
        for factor in (1.0, 0.1)
    )
    assert plain.keys() == scaled.keys()
    for weight, rate in scaled.items():
        factor = 1.0 if weight.startswith("classifier.") else 0.1
        assert rate == pytest.approx(plain[weight] * factor), weight


def test_the_first_step_of_sgd_is_as_small_as_the_factor(tmp_path: Path) -> None:
    optim = {"_target_": "torch.optim.SGD", "lr": 0.1}
    changes, layers = {}, ("stem.weight", "classifier.weight")
    for factor in (1.0, 0.01):
        settings = config(
            optim=optim, **SHORT | {"trainer__max_steps": 1}, trainer__backbone_lr_factor=factor
        )
        before = weights(plan_run(settings).build_trainer())
        after = weights(train(plan_run(settings), tmp_path / str(factor)))
        changes[factor] = {name: (after[name] - before[name]).norm() for name in layers}
    for name, ratio in zip(layers, (0.01, 1.0), strict=True):
        expected = ratio * changes[1.0][name].item()
        assert changes[0.01][name].item() == pytest.approx(expected, rel=1e-3)


def test_the_classifier_is_the_last_layer_with_an_output_for_each_class() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(5, 5), nn.ReLU())
    assert classifier_names(model, 5) == {"2.weight", "2.bias"}
    with pytest.raises(ConfigError):
        classifier_names(model, 4)


def load(directory: Path) -> LoadedRun:
    run = load_run(directory, directory.name)
    assert isinstance(run, LoadedRun)
    return run


def test_a_diff_names_the_paths_of_different_weights_only(tmp_path: Path) -> None:
    state = weights(plan_run(config(model=RESNET)).build_trainer())
    for name, shift in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / f"{name}.pth"
        torch.save(state | {"stem.weight": state["stem.weight"] + shift}, path)
        open_run(plan_run(config(init_from=str(path))), tmp_path / name).close("finished")
    open_run(plan_run(config()), tmp_path / "random").close("finished")
    first, same, other, random = (load(tmp_path / name) for name in ("a", "b", "c", "random"))
    assert first.replicate_key == same.replicate_key
    assert Comparison([first, same]).settings == {}
    paths = [str(tmp_path / f"{name}.pth") for name in "ac"]
    assert Comparison([first, other]).settings == {"init_from": paths}
    assert Comparison([first, random]).settings["init_from"][0] == paths[0]


def test_the_weights_of_a_library_start_a_network_with_another_stem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = {"_target_": "resnet_sweep.models.torchvision_classifier", "name": "squeezenet1_1"}
    settings = config(model=network, init_from="pretrained")
    file = models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / file).write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=file):
        plan_run(settings)
    torch.manual_seed(0)
    original = models.get_model("squeezenet1_1").state_dict()
    torch.save(original, tmp_path / "checkpoints" / file)
    planned = plan_run(settings)
    assert any("1000 classes" in note for note in planned.notes)
    found = initial(Path("pretrained"), model=network)
    assert torch.equal(found["features.3.squeeze.weight"], original["features.3.squeeze.weight"])
    assert found["classifier.1.weight"].shape[0] == 10
    assert torch.equal(found["features.0.bias"], original["features.0.bias"])
