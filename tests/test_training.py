"""The trainer: its loop, resuming, checkpoints, divergence, precision and signals."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import (
    Recorder,
    StopAt,
    assert_same_bits,
    config,
    open_run,
    train,
    weights,
    without_times,
)
from torch import Tensor, nn

from resnet_sweep import jobs
from resnet_sweep.config.plan import plan_run
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import LockLostError, Run
from resnet_sweep.training import checkpoint
from resnet_sweep.training.checkpoint import (
    BEST,
    LAST,
    digest,
    read_checkpoint,
    write_last,
)
from resnet_sweep.training.device import has_fast_bfloat16, resolve_device, resolve_precision
from resnet_sweep.training.evaluation import accuracy, cross_entropy
from resnet_sweep.training.optimizers import param_groups
from resnet_sweep.training.schedules import Constant
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.trainer import Diverged


def assert_names(error: pytest.ExceptionInfo, *facts: str) -> None:
    """Assert that an error message contains all facts."""
    for fact in facts:
        assert fact in str(error.value)


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_trainer_computes_what_a_plain_loop_computes(tmp_path: Path, drop_last: bool) -> None:
    """The plain loop uses the optimizer, the schedule and the loss of torch."""
    prepared = plan_run(
        config(
            model__dropout=0.0,
            # A larger rate amplifies rounding errors.
            optim__lr=0.02,
            augmentation={},
            schedule={"_target_": "resnet_sweep.training.schedules.Cosine"},
            trainer__drop_last=drop_last,
        )
    )
    ours = train(prepared, tmp_path)

    torch.manual_seed(derive_seed(3, "weights"))
    reference = prepared.build_trainer().model
    split = prepared.dataset.train
    pixels = torch.from_numpy(split.images[split.indices])
    labels = torch.from_numpy(split.labels[split.indices]).long()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in (prepared.dataset.mean, prepared.dataset.std)
    )
    images = ours.normalize(pixels)
    torch.testing.assert_close(images.double(), (pixels / 255 - mean) / std, rtol=0, atol=1e-5)
    steps = 6 if drop_last else 7
    optimizer = torch.optim.SGD(reference.parameters(), 0.02, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3 * steps)
    for epoch, row in enumerate(ours.rows):
        shuffle = torch.Generator().manual_seed(derive_seed(3, "order", epoch))
        order = torch.randperm(100, generator=shuffle)
        total, correct, norms = 0.0, 0, []
        assert row["lr"] == pytest.approx(optimizer.param_groups[0]["lr"])
        for batch in order.split(16)[:steps]:
            reference.train()
            logits = reference(images[batch])
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            flat = torch.cat([weight.grad.flatten() for weight in reference.parameters()])
            norms.append(flat.double().norm().item())
            optimizer.step()
            scheduler.step()
            total += loss.item() * len(batch)
            correct += (logits.argmax(1) == labels[batch]).sum().item()
        count = 96 if drop_last else 100
        assert row["train_loss"] == pytest.approx(total / count, rel=1e-4)
        assert row["train_acc"] == pytest.approx(100 * correct / count, abs=1.01)
        assert row["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-3)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(weights(ours)[name], weight, rtol=2e-3, atol=2e-4)


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_weights(tmp_path: Path) -> None:
    one = train(plan_run(config()), tmp_path / "1")
    repeated = train(plan_run(config()), tmp_path / "2")
    other = train(plan_run(config(seed=4)), tmp_path / "3")
    assert_same_bits(one, repeated)
    assert not torch.equal(weights(one)["stem.weight"], weights(other)["stem.weight"])


@pytest.mark.parametrize(
    "step", [0, 7, 13, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 6, 8, 14, 20))]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)
    prepared = plan_run(config())
    whole = train(prepared, tmp_path / "whole")

    run = open_run(prepared, tmp_path / "stopped")
    stop = StopSignal()
    if step == 0:
        stop.received = 15
    stopped = prepared.build_trainer()
    with pytest.raises(Interrupted):
        stopped.fit(run, [StopAt(stop, step)], stop)
    run.close("interrupted")
    assert stopped.global_step == step
    resumed = train(prepared, tmp_path / "stopped")

    assert_same_bits(resumed, whole)
    for name in (BEST, LAST):
        ours, theirs = (
            read_checkpoint(tmp_path / folder / "checkpoints" / name)["model"]
            for folder in ("stopped", "whole")
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert without_times(read_metrics(tmp_path / "stopped")) == without_times(whole.rows)


@pytest.mark.slow
def test_a_run_stopped_at_every_step_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    prepared = plan_run(config())
    whole = train(prepared, tmp_path / "whole")
    interruptions = 0
    while True:
        run = open_run(prepared, tmp_path / "stopped")
        training, stop = prepared.build_trainer(), StopSignal()
        train_step = training.train_step

        def step_and_stop(*batch, train_step=train_step, stop=stop, **settings):
            train_step(*batch, **settings)
            stop.received = 15

        training.train_step = step_and_stop
        try:
            training.fit(run, [], stop)
        except Interrupted:
            run.close("interrupted")
            interruptions += 1
        else:
            run.close("finished")
            break
    assert interruptions == 21
    assert_same_bits(training, whole)


def test_metrics_csv_is_written_again_from_the_checkpoint(tmp_path: Path) -> None:
    prepared = plan_run(config())
    whole = train(prepared, tmp_path)
    (tmp_path / "metrics.csv").write_text("nonsense")
    Record(**json.loads((tmp_path / "run.json").read_text()) | {"state": "failed"}).write(tmp_path)
    resumed = train(prepared, tmp_path)
    assert_same_bits(resumed, whole)
    assert without_times(read_metrics(tmp_path)) == without_times(whole.rows)


def test_the_best_checkpoint_has_the_best_accuracy(tmp_path: Path) -> None:
    prepared = plan_run(config(trainer__epochs=6))
    training = train(prepared, tmp_path)
    best = read_checkpoint(tmp_path / "checkpoints" / BEST)
    accuracies = [row["val_acc"] for row in training.rows]
    assert best["val_acc"] == max(accuracies)
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1
    training.model.load_state_dict(best["model"])
    training.model.eval()
    split = prepared.dataset.validation
    with torch.no_grad():
        images = training.normalize(torch.from_numpy(split.images[split.indices]))
        predicted = training.model(images).argmax(1).numpy()
    assert 100 * (predicted == split.labels[split.indices]).mean() == pytest.approx(best["val_acc"])


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (7, 1), (8, 2), (1000, 3)])
def test_max_steps_ends_the_run_and_does_not_change_the_schedule(
    tmp_path: Path, steps: int, rows: int
) -> None:
    recorder = Recorder()
    prepared = plan_run(config(trainer__max_steps=steps))
    train(prepared, tmp_path, recorder)
    total = min(steps, 21)
    assert [step.global_step for step in recorder.steps] == list(range(total))
    assert len(recorder.rows) == rows
    assert recorder.steps_at_epoch_end == [min(7 * epoch, total) for epoch in range(1, rows + 1)]
    schedule = plan_run(config()).build_trainer().schedule
    assert [step.lr for step in recorder.steps] == [schedule(step) for step in range(total)]


def test_each_epoch_uses_each_image_once(tmp_path: Path) -> None:
    training = plan_run(config()).build_trainer()
    used: list[int] = []
    take = training.train_batches.take
    training.train_batches.take = lambda positions: (
        used.extend(positions.tolist()),
        take(positions),
    )[1]
    run = Run.open(tmp_path, Record(signature="s"))
    training.fit(run, [], StopSignal())
    run.close("finished")
    epochs = [used[start : start + 100] for start in (0, 100, 200)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_error_about_divergence_names_epoch_step_rate_and_layer(tmp_path: Path) -> None:
    training = plan_run(config(optim__lr=1e8, schedule__warmup_epochs=0)).build_trainer()
    run = Run.open(tmp_path, Record(signature="s"))
    with pytest.raises(Diverged) as diverged:
        training.fit(run, [], StopSignal())
    run.close("diverged")
    step = training.step_metrics.losses.isfinite().tolist().index(False)
    rate, norm = training.schedule(step), training.step_metrics.grad_norms[step].item()
    facts = ("nan", "epoch 1", f"step {step + 1}", f"{rate:g}", f"{norm:g}")
    assert_names(diverged, *facts)
    assert any(layer in str(diverged.value) for layer in training.step_metrics.layers)
    assert not (tmp_path / "checkpoints").exists()


def test_the_error_about_divergence_in_the_first_step_names_no_layer(tmp_path: Path) -> None:
    training = plan_run(config()).build_trainer()
    with torch.no_grad():
        training.model.classifier.bias[0] = math.nan
    run = Run.open(tmp_path, Record(signature="s"))
    with pytest.raises(Diverged) as diverged:
        training.fit(run, [], StopSignal())
    run.close("diverged")
    assert_names(diverged, "nan", "epoch 1", "step 1")
    assert not any(
        f"layer {layer}" in str(diverged.value) for layer in training.step_metrics.layers
    )


def test_a_run_with_a_nan_validation_loss_diverges(tmp_path: Path) -> None:
    training = plan_run(config()).build_trainer()
    train_step = training.train_step

    def step_and_spoil(*batch: object, **settings: object) -> None:
        train_step(*batch, **settings)
        if training.step == 6:
            with torch.no_grad():
                training.model.classifier.bias[0] = math.nan

    training.train_step = step_and_spoil
    run = Run.open(tmp_path, Record(signature="s"))
    with pytest.raises(Diverged) as diverged:
        training.fit(run, [], StopSignal())
    run.close("diverged")
    assert_names(diverged, "validation loss", "nan", "epoch 1", "step 7", "0.1")


def test_a_run_notes_a_loss_that_is_far_above_that_of_guessing(tmp_path: Path) -> None:
    """The loss is finite, so the run doesn't diverge."""
    changes = {"trainer__epochs": 1, "trainer__max_steps": 5, "schedule__warmup_epochs": 0}
    prepared = plan_run(config(**changes, optim__lr=1000.0))
    jobs.train(prepared, open_run(prepared, tmp_path / "run"), StopSignal())
    record = Record.read(tmp_path / "run")
    assert record.state == "finished"
    (note,) = record.notes
    loss, accuracy = record.best["val_loss"], record.best["val_acc"]
    for fact in (f"{loss:.4g}", f"{math.log(10):.2f}", f"{accuracy:.2f}%", "10.00%", "optim.lr"):
        assert fact in note
    assert note in jobs.summarize_run(record, tmp_path / "run")
    assert train(plan_run(config(**changes)), tmp_path / "sane").notes() == []


def test_checkpoints_are_written_within_a_long_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.CHECKPOINT_SECONDS", 0)
    prepared = plan_run(config())
    run = open_run(prepared, tmp_path)
    training = prepared.build_trainer()
    train_step = training.train_step

    def step_or_fail(*batch: object, **settings: object) -> None:
        if training.global_step == 10:
            raise RuntimeError("power failure")
        train_step(*batch, **settings)

    training.train_step = step_or_fail
    with pytest.raises(RuntimeError):
        training.fit(run, [], StopSignal())
    run.close("failed")
    assert read_checkpoint(tmp_path / "checkpoints" / LAST)["step"] == 3


def test_the_random_numbers_of_a_step_follow_from_seed_epoch_and_step(tmp_path: Path) -> None:
    seeds = []

    def record_seeds(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple:
        seeds.append((torch.initial_seed(), generator.initial_seed()))
        return images, labels

    prepared = plan_run(config(trainer__epochs=2))
    training = prepared.build_trainer()
    training.augmentation = [record_seeds]
    run = open_run(prepared, tmp_path)
    training.fit(run, [], StopSignal())
    run.close("finished")
    assert seeds == [
        tuple(derive_seed(3, use, epoch, step) for use in ("model", "augmentation"))
        for epoch in (0, 1)
        for step in range(7)
    ]


class Slow:
    """A transform that takes at least `SECONDS` for each batch."""

    SECONDS = 0.02

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple:
        end = time.monotonic() + self.SECONDS
        while time.monotonic() < end:
            pass
        return images, labels


def test_seconds_and_images_per_second_agree_with_the_clock(tmp_path: Path) -> None:
    prepared = plan_run(config())
    training = prepared.build_trainer()
    training.augmentation = [Slow()]
    run = open_run(prepared, tmp_path)
    started = time.monotonic()
    training.fit(run, [], StopSignal())
    elapsed = time.monotonic() - started
    run.close("finished")
    assert sum(row["seconds"] for row in training.rows) < elapsed
    for row in training.rows:
        # The 100 images are in seven batches, and the rest of the epoch is evaluation.
        train_seconds = 100 / row["images_per_second"]
        assert 7 * Slow.SECONDS < train_seconds < row["seconds"]


def test_runs_of_different_lengths_are_equal_until_the_first_cooldown(tmp_path: Path) -> None:
    schedule = {
        "_target_": "resnet_sweep.training.schedules.Trapezoid",
        "warmup_epochs": 0.5,
        "cooldown": 0.25,
    }
    averages = {"schedule": schedule, "trainer__ema_decay": [0.9, 0.5]}
    short, long = (
        train(plan_run(config(**averages, trainer__epochs=epochs)), tmp_path / f"{epochs}")
        for epochs in (4, 6)
    )
    rows, longer = without_times(short.rows), without_times(long.rows)
    assert rows[:3] == longer[:3]
    assert rows[3]["val_loss"] != longer[3]["val_loss"]


@pytest.mark.parametrize(("written", "ema_decay"), [(False, None), (True, None), (True, 0.5)])
def test_a_new_best_checkpoint_is_committed_with_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool, ema_decay: float | None
) -> None:
    """A run killed before or after the commit gets the right best checkpoint when resumed."""
    easy = {"model__dropout": 0.0, "augmentation": {}, "data__limit_train": 300}
    prepared = plan_run(config(**easy, trainer__ema_decay=ema_decay))
    whole = train(prepared, tmp_path / "whole")
    expected = read_checkpoint(tmp_path / "whole" / "checkpoints" / BEST)
    assert expected["epoch"] == 2
    run = open_run(prepared, tmp_path / "killed")
    training = prepared.build_trainer()

    def write_or_fail(directory: Path, state: dict) -> None:
        power_failure = len(state["rows"]) == 2
        if written or not power_failure:
            write_last(directory, state)
        if power_failure:
            raise RuntimeError("power failure")

    with monkeypatch.context() as patches, pytest.raises(RuntimeError):
        patches.setattr(checkpoint, "write_last", write_or_fail)
        training.fit(run, [], StopSignal())
    run.close("failed")
    best = tmp_path / "killed" / "checkpoints" / BEST
    assert read_checkpoint(best)["epoch"] == 1
    assert_same_bits(train(prepared, tmp_path / "killed"), whole)
    assert digest(read_checkpoint(best)) == digest(expected)
    assert sorted(path.name for path in best.parent.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()
    )


def test_a_run_that_another_process_took_over_writes_no_more_files(tmp_path: Path) -> None:
    prepared = plan_run(config())
    run = open_run(prepared, tmp_path)
    training = prepared.build_trainer()
    save = training._save_checkpoint

    def take_over_and_save() -> None:
        record = Record.read(tmp_path)
        record.heartbeat = {"host": "elsewhere", "process": 1, "renewed": time.time()}
        record.write(tmp_path)
        save()

    training._save_checkpoint = take_over_and_save
    with pytest.raises(LockLostError) as error:
        training.fit(run, [], StopSignal())
    assert_names(error, "process 1", "elsewhere")
    with pytest.raises(LockLostError):
        run.close("failed")
    assert Record.read(tmp_path).heartbeat["host"] == "elsewhere"
    assert not (tmp_path / "checkpoints" / LAST).exists()


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_accuracy_counts_labels_among_the_k_largest_logits(k: int) -> None:
    logits = torch.randn(200, 8, generator=torch.Generator().manual_seed(k))
    labels = torch.randint(8, (200,), generator=torch.Generator().manual_seed(k))
    hits = [
        label in sorted(range(8), key=row.__getitem__, reverse=True)[:k]
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert accuracy(logits, labels, k) == pytest.approx(100 * np.mean(hits))


def test_cross_entropy_follows_its_formula() -> None:
    logits, labels = torch.randn(20, 5), torch.randint(5, (20,))
    expected = np.mean(
        [
            -math.log(math.exp(row[label]) / sum(map(math.exp, row)))
            for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
        ]
    )
    assert cross_entropy(logits, labels) == pytest.approx(expected)


def test_norms_and_biases_are_not_decayed_if_decay_norm_and_bias_is_false() -> None:
    model = plan_run(config()).build_trainer().model
    (everything,) = param_groups(model, decay_norm_and_bias=True)
    assert len(everything["params"]) == len(list(model.parameters()))
    decayed, undecayed = param_groups(model, decay_norm_and_bias=False)
    assert all(weight.ndim > 1 for weight in decayed["params"])
    assert all(weight.ndim == 1 for weight in undecayed["params"])
    assert undecayed["weight_decay"] == 0
    assert len(decayed["params"]) + len(undecayed["params"]) == len(everything["params"])


def test_precision_auto_is_bfloat16_only_on_cpus_with_amx() -> None:
    cpu = torch.device("cpu")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert has_fast_bfloat16(cpu) is ("amx_bf16" in flags)
    expected = "bfloat16" if "amx_bf16" in flags else "float32"
    assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("float32", cpu) == "float32"


def test_bfloat16_without_amx_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == "float32"
    with pytest.raises(ValueError) as error:
        resolve_precision("bfloat16", cpu)
    assert_names(error, "trainer.precision", "bfloat16", "cpu")
    # Another machine may have a faster device.
    assert resolve_precision("bfloat16", cpu, elsewhere=True) == "bfloat16"


COUNT_PAGE_FAULTS = """
import ctypes, resource, torch
from resnet_sweep.training.device import configure

def page_faults():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        # Five tensors of 20 MB are freed together.
        [torch.ones(5_000_000) for _ in range(5)]
        count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return count

torch.set_num_threads(1)
# With this M_MMAP_THRESHOLD, glibc returns blocks of this size to the system.
ctypes.CDLL(None).mallopt(-3, 128 * 1024)
print(page_faults())
configure(torch.device("cpu"), "float32", 1)
print(page_faults())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has the setting: run this on such a Linux"
)
def test_memory_freed_by_a_step_is_not_returned_to_the_system() -> None:
    """Memory that the system provides again causes page faults."""
    process = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS], check=True, capture_output=True, text=True
    )
    default, configured = map(int, process.stdout.split())
    assert configured < default / 100


def test_device_auto_is_a_gpu_if_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type in (expected, "mps")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_stored_and_the_earlier_handler_is_restored(number: int) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    try:
        stop = StopSignal().listen()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as error:
            stop.raise_if_stopped()
        assert error.value.signal == number
        assert signal.Signals(number).name in str(error.value)
        stop.release()
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_second_ctrl_c_stops_at_once() -> None:
    stop = StopSignal().listen()
    try:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        stop.release()


def test_a_signal_during_the_release_is_passed_to_the_earlier_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGUSR2 arrives just before the handlers are restored."""
    received: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    restore = signal.signal

    def send_and_restore(number: int, handler: object) -> object:
        if number == signal.SIGUSR2:
            signal.raise_signal(signal.SIGUSR2)
        return restore(number, handler)

    try:
        stop = StopSignal().listen()
        with monkeypatch.context() as patches:
            patches.setattr(signal, "signal", send_and_restore)
            stop.release()
        assert received == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_an_ignored_sighup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopSignal().listen()
        os.kill(os.getpid(), signal.SIGHUP)
        stop.raise_if_stopped()
        stop.release()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_with_the_constant_schedule_keeps_its_rate(tmp_path: Path) -> None:
    schedule = {"_target_": "resnet_sweep.training.schedules.Constant"}
    training = train(plan_run(config(schedule=schedule)), tmp_path)
    assert isinstance(training.schedule, Constant)
    assert [row["lr"] for row in training.rows] == [0.1, 0.1, 0.1]
