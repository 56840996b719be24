"""Further metrics, compared with those of scikit-learn, and where they are shown."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

import resnet_sweep
from resnet_sweep.compare.collection import ComparedSweep, Definition
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.report_data import report_data
from resnet_sweep.compare.runs_table import RunsTable
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import COLUMNS, read_metrics
from resnet_sweep.training.metrics import BalancedAccuracy, MacroF1, TopK, evaluate_metric
from resnet_sweep.training.signals import Interrupted, StopSignal
from tests.small_run import StopAt, assert_same_bits, composed, config, open_run, train

CLASSES = "resnet_sweep.training.metrics"
SETTINGS = {
    "top3": {"_target_": f"{CLASSES}.TopK", "k": 3, "percent": True},
    "macro_f1": {"_target_": f"{CLASSES}.MacroF1", "percent": True},
}


@pytest.fixture(params=range(3))
def predictions(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of 200 images; class 6 of 7 never occurs, and class 0 is frequent."""
    generator = np.random.default_rng(request.param)
    labels = generator.choice(6, 200, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    logits = generator.normal(size=(200, 7)) + 1.5 * np.eye(7)[labels]
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def test_balanced_accuracy_equals_that_of_scikit_learn(predictions) -> None:
    logits, labels = predictions
    logits[:, 6] = -100
    expected = sklearn_metrics.balanced_accuracy_score(labels, logits.argmax(1))
    assert BalancedAccuracy()(logits, labels) == pytest.approx(100 * expected)


def test_macro_f1_equals_that_of_scikit_learn(predictions) -> None:
    logits, labels = predictions
    expected = sklearn_metrics.f1_score(labels, logits.argmax(1), average="macro")
    assert MacroF1()(logits, labels) == pytest.approx(100 * expected)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_that_of_scikit_learn(predictions, k: int) -> None:
    logits, labels = predictions
    expected = sklearn_metrics.top_k_accuracy_score(labels, logits, k=k, labels=range(7))
    assert TopK(k)(logits, labels) == pytest.approx(100 * expected)


def test_metrics_of_torchmetrics_can_be_used(predictions) -> None:
    pytest.importorskip("torchmetrics", reason="pip install torchmetrics to run this")
    f1 = {"_target_": "torchmetrics.classification.MulticlassF1Score", "average": "macro"}
    planned = plan_run(config(metric={"f1": f1}))
    metric = planned.build_trainer().metrics["val_f1"]
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (300,), generator=generator)
    for _ in range(2):
        logits = torch.randn(300, 10, generator=generator)
        expected = sklearn_metrics.f1_score(labels, logits.argmax(1), average="macro")
        assert evaluate_metric(metric, logits, labels) == pytest.approx(expected)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedRun]:
    """A run with two further metrics, and the same run without them."""
    folder = tmp_path_factory.mktemp("runs")
    train(plan_run(config(metric=SETTINGS)), folder / "further")
    train(plan_run(config()), folder / "plain")
    loaded = {}
    for name in ("further", "plain"):
        run = load_run(folder / name, name)
        assert isinstance(run, LoadedRun)
        loaded[name] = run
    return loaded


def test_the_columns_follow_the_fixed_ones_and_change_nothing_else(runs) -> None:
    further, plain = (read_metrics(runs[name].directory) for name in ("further", "plain"))
    with (runs["further"].directory / "metrics.csv").open(newline="") as file:
        assert next(csv.reader(file)) == [*COLUMNS, "val_top3", "val_macro_f1"]
    for one, other in zip(further, plain, strict=True):
        assert one["val_top3"] >= one["val_acc"]
        for name in ("train_loss", "val_loss", "val_acc", "grad_norm"):
            assert one[name] == other[name]


def test_a_run_without_the_columns_has_another_signature(runs) -> None:
    """So a sweep with metrics doesn't reuse a run that lacks their columns."""
    assert runs["further"].record.signature != runs["plain"].record.signature
    assert plan_run(config(metric={})).signature == runs["plain"].record.signature


def test_tables_diffs_and_objectives_have_the_best_value(runs) -> None:
    further, plain = runs["further"], runs["plain"]
    best = max(row["val_top3"] for row in further.metrics.rows)
    objective = Objective.from_config({"objective": "val_top3", "metric": SETTINGS})
    assert (objective.direction, objective.value(further)) == ("maximize", best)
    assert objective.value(plain) is None
    assert further.best_metrics["val_top3"] == best
    (outcome,) = (o for o in Comparison([further, plain]).summary_metrics if o.key == "val_top3")
    assert Comparison([further, plain]).values(outcome) == [best, None]
    data = report_data("title", [further, plain], [])
    assert [run["metrics"].get("val_top3") for run in data["runs"]] == [pytest.approx(best), None]
    assert {"column": "val_top3", "percent": True} in data["metrics"]
    table = RunsTable([further, plain], keys=(), sort="-val_top3")
    assert any("val_top3" in line and "val_macro_f1" in line for line in table.lines(None))
    assert repr(best) in table.csv()


def test_the_verdicts_of_a_report_can_be_about_a_further_metric(runs) -> None:
    definition = Definition(baseline="metric == null", settings={"objective": "val_top3"})
    sweep = ComparedSweep("sweep", definition, [runs["further"]])
    (verdicts,) = report_data("title", [runs["further"]], [], sweeps=[sweep])["verdicts"]
    assert "best val_top3" in verdicts["rows"][0]


def test_the_python_api_has_further_metrics(runs) -> None:
    found = resnet_sweep.load_runs([run.directory for run in runs.values()])
    best = runs["further"].best_metrics["val_top3"]
    assert found.best("val_top3").best_metrics["val_top3"] == best
    assert found.rank(objective="val_top3").best_run is found.best("val_top3")
    assert best in resnet_sweep.diff(*found).outcomes["best val_top3"]
    assert best in found.to_frame()["val_top3"].tolist()


def test_lower_is_better_if_the_setting_says_so(runs) -> None:
    metric = {"top3": SETTINGS["top3"] | {"higher_is_better": False}}
    objective = Objective.from_config({"objective": "val_top3", "metric": metric})
    lowest = min(row["val_top3"] for row in runs["further"].metrics.rows)
    assert (objective.direction, objective.value(runs["further"])) == ("minimize", lowest)


def test_a_resumed_run_has_the_same_columns(tmp_path: Path) -> None:
    complete = train(plan_run(config(metric=SETTINGS)), tmp_path / "complete")
    planned, stop = plan_run(config(metric=SETTINGS)), StopSignal()
    run = open_run(planned, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        planned.build_trainer().fit(run, [StopAt(stop, 10)], stop)
    run.close("interrupted")
    assert_same_bits(train(planned, tmp_path / "stopped"), complete)


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        (["metric=top5", "metric.top5.k=0"], "metric.top5.k"),
        (["metric=top5", "metric.top5.k=10"], "10 classes"),
        (["metric=top5", "+metric.top5.kk=2"], "metric.top5.k"),
        (["metric=top5", "metric.top5.percent=7"], "metric.top5.percent"),
        (["metric=top5", "objective=val_macro_f1"], "metric="),
        (["objective=val_ac"], "val_acc"),
        (["+metric.acc={_target_:torch.nn.CrossEntropyLoss}"], "metric.acc"),
        (["+metric.x={_target_:torch.nn.Identity}"], "metric.x"),
        (["+metric.Top={_target_:torch.nn.CrossEntropyLoss}"], "metric.Top"),
    ],
)
def test_wrong_metrics_are_refused(overrides: list[str], fact: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_run(composed("experiment=quickstart", *overrides))
    assert fact in str(error.value)


def test_several_choices_are_combined() -> None:
    group = composed("metric=[top5,macro_f1,balanced_accuracy]")["metric"]
    assert [*group] == ["top5", "macro_f1", "balanced_accuracy"]
    assert composed()["metric"] == {}
