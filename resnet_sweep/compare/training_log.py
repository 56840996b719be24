"""The training log of one or two runs, in Markdown."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import number, percent, shown, span
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import Row, best_row
from resnet_sweep.runs.record import Record

MOST_RUNS = 2
# The sections of the model configuration, with the config groups that they tell of.
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
# The epochs that the log tells of, as shares of a run, with what it calls them.
KEY_EPOCHS = (
    (0.10, "Early training"),
    (0.25, "Mid training"),
    (0.50, "Late training"),
    (0.75, "Near convergence"),
)


@dataclass(frozen=True)
class Log:
    """A run with what the log's tables tell of it.

    Attributes:
        number: in the log, from 1.
        record: of the run.
        rows: its metrics, an epoch each.
        best, final: figures of the best epoch and of the last, as the record has them.
    """

    number: int
    entry: Entry
    record: Record
    rows: Sequence[Row]
    best: Row
    final: Row

    @classmethod
    def of(cls, number: int, entry: Entry) -> "Log":
        """The log of a run that was found.

        Raises:
            RequestError: it can't be read, or has no epoch with a validation accuracy.
        """
        rows = entry.metrics.rows
        known = [row for row in rows if "val_acc" in row]
        if entry.record is None or not known:
            damage = entry.damage or entry.metrics.damage or "no epoch is done"
            raise RequestError(
                f"there is no training log of {shown(entry.name)}, since {shown(damage)}: name "
                "another run"
            )
        best, final = entry.record.best, entry.record.final
        if best is None or best["val_acc"] is None:
            best = best_row(known)
        return cls(number, entry, entry.record, rows, best, final or rows[-1])

    @property
    def gap(self) -> float | None:
        """Final training accuracy less final validation accuracy, in points."""
        return _difference(self.final.get("val_acc"), self.final.get("train_acc"))

    @property
    def disagreement(self) -> str | None:
        """Where the record and the metrics contradict each other; None if they don't."""
        last, final = self.rows[-1]["epoch"], self.final["epoch"]
        if final is not None and last < final:
            return f"metrics.csv ends at epoch {_whole(last)} of {_whole(final)}"
        if last != final:
            return f"metrics.csv ends at epoch {_whole(last)}, run.json at {_whole(final)}"
        found = best_row(row for row in self.rows if "val_acc" in row)
        recorded, calculated = (
            f"{percent(row['val_acc'])} in epoch {_whole(row['epoch'])}"
            for row in (self.best, found)
        )
        if recorded != calculated:
            return f"the best is {recorded} in run.json, {calculated} in metrics.csv"
        return None


def write_log(entries: Sequence[Entry]) -> str:
    """The training log of one run, or of two with their comparison.

    Args:
        entries: the runs, in the order that the log is to have.

    Raises:
        RequestError: they are more than two, or there is nothing to tell of one of them.
    """
    if len(entries) > MOST_RUNS:
        raise RequestError(
            f"a training log is of one run or two, but here are {len(entries)}: name one or two "
            "run directories"
        )
    logs = [Log.of(number, entry) for number, entry in enumerate(entries, start=1)]
    parts = [
        f"{_title(logs)}\n\n{_configuration(logs)}\n\n{_runs_summary(logs)}",
        *map(_details, logs),
        _analysis(logs),
        _quick_reference(logs),
    ]
    return "\n\n---\n\n".join(parts) + "\n"


def _title(logs: Sequence[Log]) -> str:
    names = dict.fromkeys(
        " ".join(log.record.choices.get(group, "") for group in ("model", "data")) for log in logs
    )
    return f"# {_text(' and '.join(names).strip() or 'Run')} Training Log{'s' * (len(logs) > 1)}"


def _configuration(logs: Sequence[Log]) -> str:
    """What was trained, as the records state it; where two runs differ, both values."""
    sections = ["## Model Configuration"]
    for title, groups in SECTIONS.items():
        lines = [line for group in groups for line in _group(logs, group)]
        if title == "Architecture Details":
            lines += _stages(logs)
            lines += _stated("Total Parameters", [_count(log.record.parameters) for log in logs])
        elif title == "Training Configuration":
            lines += _stated("Seed", [_value(log.record.seed) for log in logs])
        if lines:
            sections.append(f"### {title}\n" + "\n".join(lines))
    return "\n\n".join(sections)


def _group(logs: Sequence[Log], group: str) -> Iterator[str]:
    chosen = [_text(log.record.choices.get(group)) for log in logs]
    flat = [
        {
            name.removeprefix(f"{group}."): value
            for name, value in log.entry.settings.items()
            if name.startswith(f"{group}.")
        }
        for log in logs
    ]
    classes = [_class(settings.get("_target_")) for settings in flat]
    if group != "trainer":
        yield from _stated(
            TITLES[group],
            [
                f"{choice} ({name})" if choice and name else choice or name
                for choice, name in zip(chosen, classes, strict=True)
            ],
        )
    for name in dict.fromkeys(name for settings in flat for name in settings):
        values = [settings.get(name) for settings in flat]
        if name.endswith("._target_"):
            yield from _stated(_heading(name.removesuffix("._target_")), map(_class, values))
        elif name != "_target_":
            yield from _stated(_heading(name), map(_value, values))


def _stages(logs: Sequence[Log]) -> Iterator[str]:
    """The stages of a ResNet of basic blocks, if all runs have the same."""
    first, *others = map(_stage_lines, logs)
    if all(other == first for other in others):
        yield from first


def _stage_lines(log: Log) -> list[str]:
    settings = log.entry.settings
    columns = [settings.get(f"model.{name}") for name in ("widths", "blocks", "strides")]
    block = settings.get("model.block")
    if not (isinstance(block, str) and block.startswith("basic")) or not all(
        isinstance(column, list) and column and len(column) == len(columns[0]) for column in columns
    ):
        return []
    inputs = [settings.get("model.stem_width") or columns[0][0], *columns[0]]
    return [
        f"- **Architecture**: {len(columns[0])}-stage ResNet with {_text(block)} blocks",
        *(
            f"  - Stage {number}: {_text(before)}→{_text(width)} channels, {_text(blocks)} blocks, "
            f"stride {_text(stride)}"
            for number, (before, width, blocks, stride) in enumerate(
                zip(inputs, *columns, strict=False), start=1
            )
        ),
    ]


def _stated(title: str, values: Iterable[str]) -> Iterator[str]:
    """A line of the configuration, none where nothing is stated."""
    values = list(values)
    if len(set(values)) == 1:
        told = values[0]
    else:
        told = ", ".join(f"{value or 'none'} (Run {n})" for n, value in enumerate(values, start=1))
    if told:
        yield f"- **{title}**: {told}"


def _runs_summary(logs: Sequence[Log]) -> str:
    return "## Training Runs Summary\n\n" + _table(
        ("Run", "Best Val Acc", "Final Train Acc", "Final Val Acc", "Final Loss", "Notes"),
        (
            (
                str(log.number),
                percent(log.best["val_acc"]),
                percent(log.final.get("train_acc")),
                percent(log.final.get("val_acc")),
                _loss(log.final.get("train_loss")),
                _text(f"{log.entry.name}, {log.entry.state}"),
            )
            for log in logs
        ),
        dashes=(5, 13, 17, 15, 12, 7),
    )


def _details(log: Log) -> str:
    summary = [
        f"- **Best Validation Accuracy**: {percent(log.best['val_acc'])} "
        f"(Epoch {_whole(log.best['epoch'])})",
        f"- **Final Training Accuracy**: {percent(log.final.get('train_acc'))}",
        f"- **Final Validation Accuracy**: {percent(log.final.get('val_acc'))}",
        f"- **Final Loss**: {_loss(log.final.get('train_loss'))}",
        f"- **Overfitting Gap**: {percent(log.gap)} (Train vs Val accuracy difference)",
    ]
    if log.record.seconds:
        summary.append(f"- **Training Time**: {span(log.record.seconds)}")
    if log.record.reason:
        summary.append(f"- **State**: {_text(log.entry.state)}, {_text(log.record.reason)}")
    if log.entry.metrics.damage:
        summary.append(f"- **Missing**: {_text(log.entry.metrics.damage)}")
    if log.disagreement:
        summary.append(f"- **Disagreement**: {log.disagreement}")
    summary += [f"- **Note**: {_text(note)}" for note in log.record.notes]
    key_epochs = _table(
        ("Epoch", "Train Acc", "Val Acc", "Loss", "Notes"),
        ((*_epoch(log, row), note) for row, note in _key_epochs(log)),
        dashes=(7, 11, 9, 6, 7),
    )
    epochs = _table(
        ("Epoch", "Train Acc", "Val Acc", "Loss"),
        (_epoch(log, row) for row in log.rows),
        dashes=(7, 11, 9, 6),
    )
    return (
        f"## Training Run {log.number} - Detailed Results\n\n"
        "### Summary\n" + "\n".join(summary) + "\n\n"
        f"### Key Epochs\n{key_epochs}\n\n"
        f"### Complete Epoch Data\n{epochs}"
    )


def _key_epochs(log: Log) -> Iterator[tuple[Row, str]]:
    """The first, the best and the last epoch and those between that the log tells of, in order."""
    last = len(log.rows)
    epochs = [row["epoch"] for row in log.rows]
    names = {1: ["Initial"]}
    names.setdefault(last, ["Final" if epochs[-1] == log.final["epoch"] else "Last known"])
    for share, name in KEY_EPOCHS:
        # In a short run several come to the same epoch.
        names.setdefault(max(1, round(share * last)), [name])
    if log.best["epoch"] in epochs:
        best = epochs.index(log.best["epoch"]) + 1
        names.setdefault(best, []).append("**Best validation**")
    for place in sorted(names):
        yield log.rows[place - 1], ", ".join(names[place])


def _epoch(log: Log, row: Row) -> tuple[str, ...]:
    accuracy = percent(row.get("val_acc"))
    return (
        _whole(row["epoch"]),
        percent(row.get("train_acc")),
        _bold(accuracy, row["epoch"] == log.best["epoch"]),
        _loss(row.get("train_loss")),
    )


def _analysis(logs: Sequence[Log]) -> str:
    parts = ["## Training Analysis"]
    if len(logs) == MOST_RUNS:
        parts.append("### Performance Comparison\n" + _comparison(*logs))
    best = max(logs, key=lambda log: log.best["val_acc"])
    if (best.entry.directory / "checkpoints" / "best_model.pth").is_file():
        parts.append(
            "### Model Checkpoints\n"
            f"- **Best Model (Run {best.number})**: `checkpoints/best_model.pth` - "
            f"{percent(best.best['val_acc'])} validation accuracy\n"
            f"- **Final Model (Run {best.number})**: Epoch {_whole(best.final['epoch'])} - "
            f"{percent(best.final.get('val_acc'))} validation accuracy"
        )
    environment = [
        *_stated("Device", [_text(log.record.device) for log in logs]),
        *_stated("Precision", [_text(log.record.precision) for log in logs]),
        *_stated("Framework", [_framework(log.record) for log in logs]),
        *_stated(
            "Training Time",
            [span(log.record.seconds) if log.record.seconds else "Not logged" for log in logs],
        ),
    ]
    parts.append("### Hardware & Environment\n" + "\n".join(environment))
    return "\n\n".join(parts)


def _comparison(one: Log, other: Log) -> str:
    """What the second run gained over the first; the loss in percent, the rest in points."""

    def line(title: str, of: Callable[[Log], float | None], bold: bool) -> tuple[str, ...]:
        change = _difference(of(one), of(other))
        told = number(change, 2, "%", sign="+")
        return f"**{title}**", percent(of(one)), percent(of(other)), _bold(told, bold)

    losses = [log.final.get("train_loss") for log in (one, other)]
    change = _difference(*losses)
    share = 100 * change / losses[0] if change is not None and losses[0] else None
    told = number(share, 1, "%", sign="+")
    return _table(
        ("Metric", "Run 1", "Run 2", "Improvement"),
        (
            line("Best Validation Accuracy", lambda log: log.best["val_acc"], True),
            line("Final Validation Accuracy", lambda log: log.final.get("val_acc"), True),
            line("Final Training Accuracy", lambda log: log.final.get("train_acc"), False),
            ("**Final Loss**", *map(_loss, losses), _bold(told, True)),
            line("Overfitting Gap", lambda log: log.gap, False),
        ),
        dashes=(8, 7, 7, 13),
    )


def _quick_reference(logs: Sequence[Log]) -> str:
    best = max(logs, key=lambda log: log.best["val_acc"])
    return "## Quick Reference\n\n" + _table(
        ("**Best Performance**", "**Value**"),
        (
            ("Best Validation Accuracy", percent(best.best["val_acc"])),
            ("Best Model Epoch", f"{_whole(best.best['epoch'])} (Run {best.number})"),
            ("Final Training Accuracy", percent(best.final.get("train_acc"))),
            ("Overfitting Gap", percent(best.gap)),
            ("Final Loss", _loss(best.final.get("train_loss"))),
        ),
        dashes=(21, 11),
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], dashes: Sequence[int]) -> str:
    lines = [_line(heads), f"|{'|'.join('-' * count for count in dashes)}|", *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _loss(loss: float | None) -> str:
    return number(loss, 4)


def _whole(count: float | None) -> str:
    return number(count, 0)


def _count(count: int | None) -> str:
    return "" if count is None else _whole(count)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else other - one


def _framework(record: Record) -> str:
    version = record.versions.get("torch")
    return f"PyTorch {_text(version)}" if version else ""


def _heading(name: str) -> str:
    """`early_stopping.min_delta` as `Early Stopping Min Delta`."""
    if name in TITLES:
        return TITLES[name]
    return _text(re.sub(r"[._]+", " ", name).title())


def _class(target: Any) -> str:
    return _text(target.rpartition(".")[2]) if isinstance(target, str) else ""


def _value(value: Any) -> str:
    return "" if value is None or value == {} else _text(value)


def _text(value: Any) -> str:
    """A value as text that Markdown takes for nothing else, on one line."""
    if value is None:
        return ""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(shown(value).split()))
