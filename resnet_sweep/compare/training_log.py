"""The training log of one or two runs, in Markdown; its layout is in training_log.md.jinja."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_sweep.compare.format import number, percent, shown, span
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row, best_row
from resnet_sweep.runs.record import Record

MOST_RUNS = 2
# The sections of the model configuration, with the config groups that they state.
SECTIONS = {
    "Architecture Details": ("model",),
    "Dataset Information": ("data",),
    "Training Configuration": ("optim", "schedule", "loss", "trainer"),
    "Data Augmentation": ("augmentation",),
}
TITLES = {
    "model": "Model",
    "data": "Dataset",
    "optim": "Optimizer",
    "schedule": "Learning Rate Schedule",
    "loss": "Loss Function",
    "trainer": "Trainer",
    "augmentation": "Training",
    "lr": "Learning Rate",
    "min_lr": "Minimum Learning Rate",
    "std": "Standard Deviation",
    "ema_decay": "EMA Decay",
}
# The key epochs as shares of a run, with their names.
KEY_EPOCHS = (
    (0.10, "Early training"),
    (0.25, "Mid training"),
    (0.50, "Late training"),
    (0.75, "Near convergence"),
)


@dataclass(frozen=True)
class RunLog:
    """A run with the values that the tables of the log have.

    Attributes:
        number: the number of the run in the log, from 1.
        run: the run.
        rows: its metrics, a row for each epoch.
        best, final: the values of the best epoch and of the last, as the record has them.
    """

    number: int
    run: LoadedRun
    rows: Sequence[Row]
    best: Mapping[str, Any]
    final: Mapping[str, Any]

    @classmethod
    def of(cls, number: int, run: LoadedRun | BrokenRun) -> "RunLog":
        """Return the log of a run.

        Raises:
            ConfigError: the run can't be read, or has no epoch with a validation accuracy.
        """
        if isinstance(run, BrokenRun):
            problem: str | None = run.error
        else:
            rows = run.metrics.rows
            best: Mapping[str, Any] | None = run.record.best
            if best is None or best["val_acc"] is None:
                best = best_row(row for row in rows if "val_acc" in row)
            if best is not None and any("val_acc" in row for row in rows):
                return cls(number, run, rows, best, run.record.final or rows[-1])
            problem = run.metrics.error
        raise ConfigError(
            f"there is no training log of {shown(run.name)}, because "
            f"{shown(problem or 'it has no complete epoch')}: name another run"
        )

    @property
    def record(self) -> Record:
        """The record of the run."""
        return self.run.record

    @property
    def gap(self) -> float | None:
        """Final training accuracy minus final validation accuracy, in points."""
        return _difference(self.final.get("val_acc"), self.final.get("train_acc"))

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has the weights of its best epoch."""
        return (self.run.directory / "checkpoints" / "best_model.pth").is_file()

    @property
    def disagreement(self) -> str | None:
        """Where the record and the metrics contradict each other; None if they don't."""
        last, final = self.rows[-1]["epoch"], self.final["epoch"]
        if final is not None and last < final:
            return f"metrics.csv ends at epoch {_whole(last)} of {_whole(final)}"
        if last != final:
            return f"metrics.csv ends at epoch {_whole(last)}, run.json at {_whole(final)}"
        found = best_row(row for row in self.rows if "val_acc" in row) or {}
        recorded, calculated = (
            f"{percent(row.get('val_acc'))} in epoch {_whole(row.get('epoch'))}"
            for row in (self.best, found)
        )
        if recorded != calculated:
            return f"the best is {recorded} in run.json, {calculated} in metrics.csv"
        return None

    def key_epochs(self) -> Iterator[tuple[Row, str]]:
        """Yield the first, the best and the last epoch and those between, with their names."""
        last = len(self.rows)
        epochs = [row["epoch"] for row in self.rows]
        names = {1: ["Initial"]}
        names.setdefault(last, ["Final" if epochs[-1] == self.final["epoch"] else "Last known"])
        for share, name in KEY_EPOCHS:
            # In a short run, several shares are the same epoch.
            names.setdefault(max(1, round(share * last)), [name])
        if self.best["epoch"] in epochs:
            best = epochs.index(self.best["epoch"]) + 1
            names.setdefault(best, []).append("**Best validation**")
        for place in sorted(names):
            yield self.rows[place - 1], ", ".join(names[place])

    def cells(self, row: Row) -> list[str]:
        """Return the cells of an epoch; the accuracy of the best one is bold."""
        accuracy = percent(row.get("val_acc"))
        return [
            _whole(row["epoch"]),
            percent(row.get("train_acc")),
            f"**{accuracy}**" if row["epoch"] == self.best["epoch"] else accuracy,
            _loss(row.get("train_loss")),
        ]


def write_log(runs: Sequence[LoadedRun | BrokenRun]) -> str:
    """Return the training log of one run, or of two with their comparison.

    Args:
        runs: in the order of the log.

    Raises:
        ConfigError: there are more than two, or one of them has no epoch.
    """
    if len(runs) > MOST_RUNS:
        raise ConfigError(
            f"a training log is of one run or two, but here are {len(runs)}: name one or two run "
            "directories"
        )
    # This import takes a moment, which --help doesn't have to wait.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    logs = [RunLog.of(at, run) for at, run in enumerate(runs, start=1)]
    environment = Environment(
        loader=PackageLoader("resnet_sweep.compare", ""),
        # Markdown is no HTML; `text` escapes what Markdown would take for markup.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "loss": _loss,
        "whole": _whole,
        "span": span,
        "text": _text,
    }
    return environment.get_template("training_log.md.jinja").render(
        title=_title(logs),
        logs=logs,
        best=max(logs, key=lambda log: log.best["val_acc"] or 0.0),
        configuration=[(title, lines) for title in SECTIONS if (lines := _section(logs, title))],
        comparison=list(_comparison(*logs)) if len(logs) == MOST_RUNS else [],
        environment=[
            *_stated("Device", [_text(log.record.device) for log in logs]),
            *_stated("Precision", [_text(log.record.precision) for log in logs]),
            *_stated("Framework", [_framework(log.record) for log in logs]),
            *_stated(
                "Training Time",
                [span(log.record.seconds) if log.record.seconds else "Not logged" for log in logs],
            ),
        ],
    )


def _title(logs: Sequence[RunLog]) -> str:
    names = dict.fromkeys(
        " ".join(log.run.choices.get(group, "") for group in ("model", "data")) for log in logs
    )
    return _text(" and ".join(names).strip() or "Run")


def _section(logs: Sequence[RunLog], title: str) -> list[str]:
    """Return the lines of a section of the configuration; where runs differ, with all values."""
    lines = [line for group in SECTIONS[title] for line in _group(logs, group)]
    if title == "Architecture Details":
        lines += _stages(logs)
        counts = [log.record.parameters for log in logs]
        texts = ["" if count is None else _whole(count) for count in counts]
        lines += _stated("Total Parameters", texts)
    elif title == "Training Configuration":
        lines += _stated("Seed", [_value(log.record.seed) for log in logs])
    return lines


def _group(logs: Sequence[RunLog], group: str) -> Iterator[str]:
    chosen = [_text(log.run.choices.get(group)) for log in logs]
    flat = [
        {
            name.removeprefix(f"{group}."): value
            for name, value in log.run.settings.items()
            if name.startswith(f"{group}.")
        }
        for log in logs
    ]
    classes = [_class(settings.get("_target_")) for settings in flat]
    if group != "trainer":
        names = zip(chosen, classes, strict=True)
        texts = [
            f"{choice} ({name})" if choice and name else choice or name for choice, name in names
        ]
        yield from _stated(TITLES[group], texts)
    for name in dict.fromkeys(name for settings in flat for name in settings):
        values = [settings.get(name) for settings in flat]
        if name.endswith("._target_"):
            yield from _stated(_heading(name.removesuffix("._target_")), map(_class, values))
        elif name != "_target_":
            yield from _stated(_heading(name), map(_value, values))


def _stages(logs: Sequence[RunLog]) -> list[str]:
    """Return the stages of a ResNet of basic blocks, if all runs have the same."""
    first, *others = map(_stage_lines, logs)
    return first if all(other == first for other in others) else []


def _stage_lines(log: RunLog) -> list[str]:
    settings = log.run.settings
    columns = [settings.get(f"model.{name}") for name in ("widths", "blocks", "strides")]
    block = settings.get("model.block")
    if not (isinstance(block, str) and block.startswith("basic")):
        return []
    lists = [column for column in columns if isinstance(column, list) and column]
    if len(lists) < len(columns) or len({*map(len, lists)}) > 1:
        return []
    widths, blocks, strides = lists
    inputs = [settings.get("model.stem_width") or widths[0], *widths]
    lines = [f"- **Architecture**: {len(widths)}-stage ResNet with {_text(block)} blocks"]
    for at, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True)):
        lines.append(
            f"  - Stage {at + 1}: {_text(inputs[at])}→{_text(width)} channels, {_text(count)} "
            f"blocks, stride {_text(stride)}"
        )
    return lines


def _stated(title: str, values: Iterable[str]) -> Iterator[str]:
    """Yield a line of the configuration, none where no run states anything."""
    values = list(values)
    if len(set(values)) == 1:
        text = values[0]
    else:
        text = ", ".join(f"{value or 'none'} (Run {n})" for n, value in enumerate(values, start=1))
    if text:
        yield f"- **{title}**: {text}"


def _comparison(one: RunLog, other: RunLog) -> Iterator[tuple[str, ...]]:
    """Yield the rows of what the second run gained; the loss in percent, the rest in points."""

    def accuracy(title: str, of: Callable[[RunLog], float | None], bold: bool) -> tuple[str, ...]:
        change = number(_difference(of(one), of(other)), 2, "%", sign="+")
        values = percent(of(one)), percent(of(other))
        return f"**{title}**", *values, f"**{change}**" if bold else change

    yield accuracy("Best Validation Accuracy", lambda log: log.best["val_acc"], True)
    yield accuracy("Final Validation Accuracy", lambda log: log.final.get("val_acc"), True)
    yield accuracy("Final Training Accuracy", lambda log: log.final.get("train_acc"), False)
    before, after = one.final.get("train_loss"), other.final.get("train_loss")
    share = 100 * (after - before) / before if before and after is not None else None
    yield "**Final Loss**", _loss(before), _loss(after), f"**{number(share, 1, '%', sign='+')}**"
    yield accuracy("Overfitting Gap", lambda log: log.gap, False)


def _loss(loss: float | None) -> str:
    return number(loss, 4)


def _whole(count: float | None) -> str:
    return number(count, 0)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else other - one


def _framework(record: Record) -> str:
    version = record.versions.get("torch")
    return f"PyTorch {_text(version)}" if version else ""


def _heading(name: str) -> str:
    """Return `early_stopping.min_delta` as `Early Stopping Min Delta`."""
    return TITLES.get(name) or _text(re.sub(r"[._]+", " ", name).title())


def _class(target: Any) -> str:
    return _text(target.rpartition(".")[2]) if isinstance(target, str) else ""


def _value(value: Any) -> str:
    return "" if value is None or value == {} else _text(value)


def _text(value: Any) -> str:
    """Return a value as text on one line that Markdown takes for nothing else."""
    if value is None:
        return ""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(shown(value).split()))
