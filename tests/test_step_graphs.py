"""A recorded step does what the step itself does, and reads all that changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from small_run import STANDARD, StopAt, assert_same_bits, config, open_run, train
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from resnet_sweep.composition.prepare import Prepared, prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.signature import sign
from resnet_sweep.training import train_step
from resnet_sweep.training.averaging import WeightAverage
from resnet_sweep.training.interruption import Interrupted, StopRequest
from resnet_sweep.training.learning_rate import ON_DEVICE, LearningRate
from resnet_sweep.training.loop import Training
from resnet_sweep.training.step_graphs import FIRST_STEPS, CudaRecorder, RecordingError, StepGraphs

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# What needs a number of the host, or gives it one.
ON_HOST = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.lift_fresh.default,
}


class Tape(TorchDispatchMode):
    """What a CUDA graph is, for a CPU: operations with the memory that they read and write.

    Numbers that the host handed to an operation are those of the recording for ever, no Python
    runs in a replay, and nothing can be read on the way. Unlike the device, it has to carry out an
    operation to record it, so it puts back all that was there before.
    """

    def __init__(self, generators: list[torch.Generator]) -> None:
        super().__init__()
        self.generators = generators
        self.calls: list[tuple[Callable, tuple, dict, object]] = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        if operation in ON_HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {operation}")
        for tensor in self._tensors((arguments, options)):
            if id(tensor) not in self.made and id(tensor) not in self.before:
                self.before[id(tensor)] = (tensor, tensor.detach().clone())
        result = operation(*arguments, **options)
        self.made |= {id(tensor): tensor for tensor in self._tensors(result)}
        self.calls.append((operation, arguments, options, result))
        return result

    @staticmethod
    def _tensors(tree: object) -> list[Tensor]:
        return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        states = [generator.get_state() for generator in self.generators]
        try:
            with self:
                step()
        except RuntimeError as error:
            raise RecordingError(str(error)) from error
        with torch.no_grad():
            # What was seen first last, since others may be the same memory, seen after a change.
            for tensor, content in reversed(self.before.values()):
                tensor.copy_(content)
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
        return self._replay

    @torch.no_grad()
    def _replay(self) -> None:
        for operation, arguments, options, result in self.calls:
            again = operation(*arguments, **options)
            for there, new in zip(self._tensors(result), self._tensors(again), strict=True):
                if there.data_ptr() != new.data_ptr():
                    there.copy_(new)


class TapeRecorder:
    """Stands in for `CudaRecorder` on a CPU, and counts."""

    def __init__(self, device: torch.device, generator: torch.Generator) -> None:
        self.generators = [generator, torch.default_generator]
        self.carried_out = self.recorded = self.replayed = 0

    def carry_out(self, step: Callable[[], None]) -> None:
        self.carried_out += 1
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        replay = Tape(self.generators).record(step)

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real graphs where there is a device for them."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(train_step, "CudaRecorder", TapeRecorder)
    else:
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def recorded(prepared: Prepared, compile: str = "graph") -> Prepared:
    """The same run with recorded steps, which no CPU is asked for in earnest."""
    return replace(prepared, settings=replace(prepared.settings, compile=compile))


def small(**changes: object) -> Prepared:
    return prepare(config(trainer__device=str(DEVICE), **changes))


def plain(prepared: Prepared, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Trained without a recording, with the numbers where a recording would read them."""
    with monkeypatch.context() as patched:
        patched.setattr(train_step, "StepGraphs", lambda recorder: None)
        return train(recorded(prepared), directory)


SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
AUGMENTATIONS = {
    name: {"_target_": f"resnet_sweep.augmentation.{name}"}
    for name in ("ColorJitter", "RandomErasing", "Cutout", "CutMixOrMixUp")
}
CASES = {
    "the log's recipe": {},
    "all of the augmentation": {"augmentation": STANDARD | AUGMENTATIONS},
    "TrivialAugment, on the host": {
        "augmentation": {"trivial": {"_target_": "resnet_sweep.augmentation.TrivialAugment"}}
    },
    "AdamW, averaged and clipped": {
        "optim": {"_target_": "torch.optim.AdamW", "lr": 0.01},
        "trainer__ema_decay": 0.9,
        "trainer__clip_grad_norm": 0.5,
    },
    "Muon without decay of the rest": {
        "optim": {
            "_target_": "resnet_sweep.training.muon.Muon", "lr": 0.02,
            "decay_norm_and_bias": False,
        },
    },
    "small images first": {"trainer__progressive_resizing": [4, 8]},
    "stochastic depth and attention": {
        "model__stochastic_depth": 0.5, "model__attention": "cbam",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_are_the_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bits, over a schedule of learning rates and a short last batch."""
    prepared = small(**CASES[name])
    ours = train(recorded(prepared), tmp_path / "recorded")
    assert_same_bits(ours, plain(prepared, tmp_path / "plain", monkeypatch))
    if DEVICE.type == "cpu":
        counts = ours.train_step.graphs.recorder
        shapes = 2 if "progressive" in str(CASES[name]) else 1
        assert counts.recorded == shapes
        assert counts.carried_out == shapes * FIRST_STEPS
        # Of three epochs with seven steps each, the last ones aren't recorded.
        assert counts.replayed == 3 * 6 - counts.carried_out


def test_resumed_run_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.loop.INSPECTION_SECONDS", 0)
    prepared = recorded(small(trainer__ema_decay=0.9))
    whole = train(prepared, tmp_path / "whole")
    for step in (2, 12):
        run, stop = open_run(prepared, tmp_path / "stopped"), StopRequest()
        with pytest.raises(Interrupted):
            prepared.training().fit(run, [StopAt(stop, step)], stop)
        run.close("interrupted")
    assert_same_bits(train(prepared, tmp_path / "stopped"), whole)


def test_recorded_steps_resume_from_a_checkpoint_of_plain_ones_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW counts its steps on the host or on the device, and a checkpoint is good for both."""
    monkeypatch.setattr("resnet_sweep.training.loop.INSPECTION_SECONDS", 0)
    prepared = small(optim={"_target_": "torch.optim.AdamW", "lr": 0.01}, trainer__epochs=1)
    ends = []
    for name, one, other in (
        ("there", prepared, recorded(prepared)), ("back", recorded(prepared), prepared),
    ):  # fmt: skip
        run, stop = open_run(one, tmp_path / name), StopRequest()
        with pytest.raises(Interrupted):
            one.training().fit(run, [StopAt(stop, 3)], stop)
        run.close("interrupted")
        ends.append(train(other, tmp_path / name))
    losses = [end.rows[0]["val_loss"] for end in ends]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_failed_recording_names_the_error_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Graph:
        """Ends as CUDA's does where its recording failed, by an error of its own."""

        def __init__(self, *_: object, **settings: object) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    def step() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    recorder = CudaRecorder.__new__(CudaRecorder)
    recorder.generator = recorder.pool = recorder.stream = None
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Mock())
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    with pytest.raises(RecordingError) as failure:
        recorder.record(step)
    assert "operation not permitted when stream is capturing" in str(failure.value)


def test_each_shape_is_recorded_by_itself() -> None:
    class Eager:
        def carry_out(self, step):
            step()

        def record(self, step):
            recordings.append(step)
            return step

    recordings, seen = [], []
    graphs = StepGraphs(Eager())
    for count in (4, 3, 4, 4, 4, 4, 3, 4):
        images, labels = torch.full((count, 1), float(len(seen))), torch.arange(count)
        graphs(lambda images, labels: seen.append((images.clone(), labels)), images, labels, None)
    assert [len(images) for images, _ in seen] == [4, 3, 4, 4, 4, 4, 3, 4]
    assert [images[0, 0].item() for images, _ in seen] == list(range(8))
    assert len(recordings) == 1
    assert len({labels.data_ptr() for _, labels in seen if len(labels) == 4}) == 1


@pytest.mark.parametrize("kind", [kind for kind in ON_DEVICE if kind is not torch.optim.Adam])
def test_a_rate_in_the_devices_memory_is_the_rate(kind: type[torch.optim.Optimizer]) -> None:
    ends = []
    for on_device in (False, True):
        torch.manual_seed(0)
        # Without a bias, whose gradient would be the rounding of zero, as BatchNorm takes it away.
        conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        model = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(4)).to(DEVICE)
        optimizer = kind(model.parameters(), lr=0.1)
        rate = LearningRate(optimizer, DEVICE, on_device)
        for step in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 5, 5, device=DEVICE)).relu().square().mean().backward()
            rate.set(0.1 / (step + 1))
            optimizer.step()
        ends.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)


def test_an_average_with_its_weight_in_the_devices_memory_is_the_average() -> None:
    model = torch.nn.Linear(3, 2)
    one, other = WeightAverage(model, 0.7), WeightAverage(model, 0.7)
    for step in range(1, 20):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        one.update(one.weight(step))
        other.update(torch.tensor(other.weight(step)))
    torch.testing.assert_close(one.model.weight, other.model.weight)


@pytest.mark.parametrize("compile", ["graph", "max"])
def test_a_cpu_is_refused_and_the_signature_is_that_without(compile: str) -> None:
    with pytest.raises(RequestError) as refusal:
        prepare(config(trainer__compile=compile))
    for fact in (f"trainer.compile={compile}", "CUDA", "cpu"):
        assert fact in str(refusal.value)
    without, with_it = config(), config(trainer__compile=compile)
    assert sign(with_it, "float32", "data") == sign(without, "float32", "data")


def test_an_optimizer_whose_steps_cannot_be_recorded_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resnet_sweep.composition.prepare.check_compile", lambda *_: None)
    adagrad = {"_target_": "torch.optim.Adagrad", "lr": 0.01}
    with pytest.raises(RequestError) as refusal:
        prepare(config(optim=adagrad, trainer__compile="graph"))
    for fact in ("trainer.compile=graph", "Adagrad", *(kind.__name__ for kind in ON_DEVICE)):
        assert fact in str(refusal.value)


@pytest.mark.skipif(
    DEVICE.type == "cpu",
    reason="only steps on a CUDA device are compiled: run this where torch finds one",
)
def test_compiled_steps_come_to_about_the_same(tmp_path: Path) -> None:
    prepared = small()
    compiled = train(recorded(prepared, "max"), tmp_path / "compiled")
    eager = train(prepared, tmp_path / "eager")
    for ours, theirs in zip(compiled.rows, eager.rows, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-2)


@pytest.mark.skipif(
    DEVICE.type == "cpu",
    reason="a CUDA graph needs a CUDA device: run this where torch finds one",
)
def test_the_recorder_of_a_gpu_makes_graphs(tmp_path: Path) -> None:
    training = train(recorded(small()), tmp_path)
    assert isinstance(training.train_step.graphs.recorder, CudaRecorder)
    assert training.train_step.graphs.seconds > 0


# Last, since what a failed recording leaves to a device is its driver's affair.
def test_what_the_host_reads_or_decides_is_no_recording(tmp_path: Path) -> None:
    class Reads:
        def __call__(self, images, labels, generator):
            if torch.rand((), generator=generator, device=images.device).item() < 2:
                images = images + 1
            return images, labels

    prepared = recorded(small(augmentation={}))
    training = prepared.training()
    training.train_step.augmentation = [Reads()]
    run = open_run(prepared, tmp_path)
    with pytest.raises(RecordingError):
        training.fit(run, [], StopRequest())
    run.close("failed")
