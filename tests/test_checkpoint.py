"""Reading and writing of checkpoints, and the detection of damage."""

import errno
from pathlib import Path

import pytest
import torch

from resnet_sweep.training.checkpoint import (
    LAST,
    PREVIOUS,
    DamagedCheckpointError,
    read_checkpoint,
    read_last,
    write_checkpoint,
    write_last,
)


def state(number: int = 0) -> dict:
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(number))
    return {
        "signature": "a",
        "number": number,
        "rows": [{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": float("nan")}],
        "model": {
            "weight": weight.to(memory_format=torch.channels_last),
            "half": weight.bfloat16(),
            "count": torch.tensor(7),
            "empty": torch.zeros(0),
        },
    }


def equal(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            equal(first[key], second[key]) for key in first
        )
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second or (first != first and second != second)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pth", state())
    assert equal(read_checkpoint(tmp_path / "a.pth"), state())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_flipped_bit_is_detected_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(path, state())
    written = path.read_bytes()
    detected = 0
    for position in range(0, len(written), 11):
        damaged = bytearray(written)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert equal(read_checkpoint(path), state())
        except DamagedCheckpointError:
            detected += 1
    assert detected > 50


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_damaged(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pth"
    write_checkpoint(path, state())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedCheckpointError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    torch.save({"model": Hostile(), "digest": ""}, tmp_path / "a.pth")
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(tmp_path / "a.pth")
    assert not (tmp_path / "executed").exists()


def test_the_previous_checkpoint_is_read_if_the_last_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_last(tmp_path, state(1))
    write_last(tmp_path, state(2))
    assert read_last(tmp_path, "a")["number"] == 2
    (tmp_path / LAST).write_bytes(b"nonsense")
    assert read_last(tmp_path, "a")["number"] == 1
    assert "warning: " in caplog.text
    assert str(tmp_path / LAST) in caplog.text
    (tmp_path / PREVIOUS).unlink()
    assert read_last(tmp_path, "a") is None


def test_a_damaged_checkpoint_never_replaces_a_readable_one(tmp_path: Path) -> None:
    write_last(tmp_path, state(1))
    write_last(tmp_path, state(2))
    (tmp_path / LAST).write_bytes(b"nonsense")
    assert read_last(tmp_path, "a")["number"] == 1
    write_last(tmp_path, state(3))
    (tmp_path / LAST).write_bytes(b"nonsense")
    assert read_last(tmp_path, "a")["number"] == 1


def test_a_full_disk_keeps_the_last_and_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_last(tmp_path, state(1))
    write_last(tmp_path, state(2))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError) as failure:
        write_last(tmp_path, state(3))
    assert failure.value.errno == errno.ENOSPC
    assert read_checkpoint(tmp_path / LAST)["number"] == 2
    assert read_checkpoint(tmp_path / PREVIOUS)["number"] == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_the_previous_checkpoint_is_read_after_a_kill_between_the_two_renames(
    tmp_path: Path,
) -> None:
    write_last(tmp_path, state(1))
    (tmp_path / LAST).rename(tmp_path / PREVIOUS)
    assert read_last(tmp_path, "a")["number"] == 1


def test_a_checkpoint_with_another_signature_is_not_used(tmp_path: Path) -> None:
    write_last(tmp_path, state(1))
    assert read_last(tmp_path, "b") is None
