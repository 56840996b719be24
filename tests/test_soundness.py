"""What was altered in a run directory is found, and mended where a checkpoint has it."""

import json
from pathlib import Path

import pytest
from small_run import assert_same_bits, config, open_run, train, without_times

from resnet_sweep.compare.entry import Entry
from resnet_sweep.composition.prepare import Prepared, prepare
from resnet_sweep.composition.restore import restore
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import BEST, LAST, PREVIOUS, read_checkpoint


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(config())


def test_an_altered_figure_in_the_record_is_found(prepared: Prepared, tmp_path: Path) -> None:
    train(prepared, tmp_path)
    path = tmp_path / "run.json"
    accuracy = json.loads(path.read_text())["best"]["val_acc"]
    path.write_text(path.read_text().replace(str(accuracy), "99.0"))
    with pytest.raises(RequestError, match=r"run.json is damaged .*by its digest"):
        Record.read(tmp_path)
    assert "by its digest" in Entry.read(tmp_path, "run").damage


@pytest.mark.parametrize(
    "changes",
    [{"best": "x"}, {"best": {"epoch": "1"}}, {"choices": []}, {"overrides": None},
     {"seconds": "x"}, {"notes": [1]}, {"reason": None}, {"lease": 3}, {"best": {"epoch": 1e400}}],
    ids=str,
)  # fmt: skip
def test_a_record_of_wrong_kinds_is_refused(tmp_path: Path, changes: dict) -> None:
    content = {"signature": "s", "state": "finished"} | changes
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"run.json is damaged"):
        Record.read(tmp_path)


def test_a_record_without_all_figures_has_a_summary(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"signature": "s", "best": {}, "final": {}}')
    assert "Final training loss:       unknown" in Record.read(tmp_path).summary()


def test_figures_altered_after_the_end_are_found_and_written_anew(
    prepared: Prepared, tmp_path: Path
) -> None:
    whole = train(prepared, tmp_path)
    path = tmp_path / "metrics.csv"
    sound = path.read_text()
    path.write_text(sound.replace("0.1", "0.2", 1))
    assert Entry.read(tmp_path, "run").metrics == ([], "metrics.csv isn't what the run wrote")
    again = train(prepared, tmp_path)
    assert_same_bits(again, whole)
    assert without_times(read_metrics(tmp_path)) == without_times(whole.rows)
    assert Entry.read(tmp_path, "run").metrics.damage is None
    assert open_run(prepared, tmp_path).record.ended_for_good


def test_a_checkpoint_of_weights_alone_does_not_take_the_place_of_the_last(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(prepared, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / LAST).write_bytes((checkpoints / BEST).read_bytes())
    Record(**json.loads((tmp_path / "run.json").read_text()) | {"state": "failed"}).write(tmp_path)
    assert_same_bits(train(prepared, tmp_path), whole)
    assert "it has weights alone" in caplog.text


def test_a_checkpoint_in_the_place_of_the_best_is_told_and_not_evaluated(
    prepared: Prepared, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(prepared, tmp_path)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / BEST).write_bytes((checkpoints / PREVIOUS).read_bytes())
    assert "val_acc" not in read_checkpoint(checkpoints / BEST)
    with pytest.raises(RequestError, match="isn't a checkpoint of a best epoch"):
        restore(tmp_path)
    Record(**json.loads((tmp_path / "run.json").read_text()) | {"state": "failed"}).write(tmp_path)
    train(prepared, tmp_path)
    assert f"{BEST} can't be used" in caplog.text
