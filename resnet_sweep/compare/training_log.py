"""The training log of one or two runs in Markdown; training_log.md.jinja has its layout."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from resnet_sweep.compare.format import (
    distinct_texts,
    format_duration,
    format_number,
    format_percent,
    safe_text,
)
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import COLUMNS, best_row

MAX_RUNS = 2
# The sections of the model configuration, and the config groups of which they list the settings.
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
# The key epochs: their positions as fractions of the run, and their names.
KEY_EPOCHS = (
    (0.10, "Early training"),
    (0.25, "Mid training"),
    (0.50, "Late training"),
    (0.75, "Near convergence"),
)


# The values of an epoch by the columns of metrics.csv; None if a value is unknown.
Epoch = Mapping[str, Any]
UNKNOWN: Epoch = dict.fromkeys(COLUMNS)


@dataclass(frozen=True)
class RunLog:
    """A run, with the values for the tables of the log.

    Attributes:
        number: number of the run in the log, from 1.
        run: the run.
        epochs: all epochs in `metrics.csv`.
        calculated: the best epoch in `metrics.csv`.
        best, final: the best and the last epoch in `run.json`, or in `metrics.csv` if it has none.
    """

    number: int
    run: LoadedRun
    epochs: Sequence[Epoch]
    calculated: Epoch
    best: Epoch
    final: Epoch

    @classmethod
    def from_run(cls, number: int, run: LoadedRun | BrokenRun) -> "RunLog":
        """Return the log of a run.

        Raises:
            ConfigError: the run can't be read, or has no epoch with a validation accuracy.
        """
        if isinstance(run, BrokenRun):
            problem: str | None = run.error
        else:
            calculated = best_row(row for row in run.metrics.rows if "val_acc" in row)
            if calculated:
                epochs = [{**UNKNOWN, **row} for row in run.metrics.rows]
                best: Epoch | None = run.record.best
                if best is None or best["val_acc"] is None:
                    best = calculated
                return cls(number, run, epochs, calculated, best, run.record.final or epochs[-1])
            problem = run.metrics.error
        raise ConfigError(
            f"a training log of {safe_text(run.name)} can't be written, because "
            f"{safe_text(problem or 'it has no complete epoch')}: name another run"
        )

    @property
    def gap(self) -> float | None:
        """Final training accuracy minus final validation accuracy, in percentage points."""
        return _gain(self.final["val_acc"], self.final["train_acc"])

    @property
    def inconsistency(self) -> str | None:
        """How `run.json` and `metrics.csv` contradict each other; None if they don't."""
        last, final = self.epochs[-1]["epoch"], self.final["epoch"]
        if last != final:
            return f"metrics.csv ends at epoch {_whole(last)}, and run.json at {_whole(final)}"
        recorded, calculated = (
            f"{format_percent(epoch['val_acc'])} in epoch {_whole(epoch['epoch'])}"
            for epoch in (self.best, self.calculated)
        )
        if recorded != calculated:
            return f"the best is {recorded} in run.json, and {calculated} in metrics.csv"
        return None

    def key_epochs(self) -> Iterator[tuple[Epoch, str]]:
        """Yield the first, the best, the last and some other epochs, with their names."""
        last = len(self.epochs)
        numbers = [epoch["epoch"] for epoch in self.epochs]
        names = {1: ["Initial"]}
        names.setdefault(last, ["Final" if numbers[-1] == self.final["epoch"] else "Last known"])
        for share, name in KEY_EPOCHS:
            # In a short run, several fractions give the same epoch.
            names.setdefault(max(1, round(share * last)), [name])
        if self.best["epoch"] in numbers:
            best = numbers.index(self.best["epoch"]) + 1
            names.setdefault(best, []).append("**Best validation**")
        for place in sorted(names):
            yield self.epochs[place - 1], ", ".join(names[place])


def write_log(runs: Sequence[LoadedRun | BrokenRun]) -> str:
    """Return the training log of one run, or of two runs with their comparison.

    Raises:
        ConfigError: there are more than two runs, or a run can't be read or has no epoch.
    """
    if len(runs) > MAX_RUNS:
        raise ConfigError(
            f"a training log is about one run or two runs, but {len(runs)} were found: name one or "
            "two run directories"
        )
    # This import takes a moment, and --help doesn't need it.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    logs = [RunLog.from_run(index, run) for index, run in enumerate(runs, start=1)]
    best = max(logs, key=lambda log: log.best["val_acc"] or 0.0)
    environment = Environment(
        loader=PackageLoader("resnet_sweep.compare", ""),
        # The output isn't HTML; the filter `text` escapes Markdown's markup.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": format_percent,
        "loss": partial(format_number, digits=4),
        "whole": _whole,
        "span": format_duration,
        "text": _text,
        "gain": lambda before, after: format_number(_gain(before, after), 2, "%", sign="+"),
        "relative_gain": lambda before, after: format_number(
            _relative_gain(before, after), 1, "%", sign="+"
        ),
    }
    names = [" ".join(log.run.choices.get(part, "") for part in ("model", "data")) for log in logs]
    return environment.get_template("training_log.md.jinja").render(
        title=_text(" and ".join(dict.fromkeys(names)).strip() or "Run"),
        logs=logs,
        best=best,
        has_checkpoint=(best.run.directory / "checkpoints" / "best_model.pth").is_file(),
        configuration=[(title, lines) for title in SECTIONS if (lines := [*_section(logs, title)])],
        environment=list(_environment(logs)),
    )


def _section(logs: Sequence[RunLog], title: str) -> Iterator[str]:
    """Yield the lines of a section of the configuration; if runs differ, with the value of each."""
    for group in SECTIONS[title]:
        if group != "trainer":
            yield from _setting_line(TITLES[group], [_choice(log, group) for log in logs])
        prefix = f"{group}."
        for name in dict.fromkeys(name for log in logs for name in log.run.settings):
            if name.startswith(prefix) and name != f"{prefix}_target_":
                heading = name.removeprefix(prefix).removesuffix("._target_")
                yield from _setting_line(_heading(heading), _values(logs, name))
    records = [log.run.record for log in logs]
    if title == "Architecture Details":
        stages, *others = map(_stages, logs)
        if all(other == stages for other in others):
            yield from stages
        counts = [record.parameters for record in records]
        texts = ["" if count is None else _whole(count) for count in counts]
        yield from _setting_line("Total Parameters", texts)
    elif title == "Training Configuration":
        yield from _setting_line("Seed", [_text(record.seed) for record in records])


def _choice(log: RunLog, group: str) -> str:
    """Return the choice in a config group, with the name of its class."""
    choice = _text(log.run.choices.get(group))
    name = _class(log.run.settings.get(f"{group}._target_"))
    return f"{choice} ({name})" if choice and name else choice or name


def _values(logs: Sequence[RunLog], name: str) -> list[str]:
    """Return a setting of each run as text; it is empty if a run doesn't have the setting."""
    values = [log.run.settings.get(name) for log in logs]
    if name.endswith("._target_"):
        return [_class(value) for value in values]
    return [_text(text) for text in distinct_texts(["" if v in (None, {}) else v for v in values])]


def _stages(log: RunLog) -> list[str]:
    """Return the lines about the stages of a ResNet with basic blocks; none for other networks."""
    settings = log.run.settings
    match settings:
        case {
            "model.block": str(block),
            "model.widths": [_, *_] as widths,
            "model.blocks": list(blocks),
            "model.strides": list(strides),
        } if block.startswith("basic") and len(widths) == len(blocks) == len(strides):
            inputs = [settings.get("model.stem_width") or widths[0], *widths]
        case _:
            return []
    lines = [f"- **Architecture**: {len(widths)}-stage ResNet with {_text(block)} blocks"]
    stages = zip(inputs, widths, blocks, strides, strict=False)
    for stage, (in_width, width, count, stride) in enumerate(stages, start=1):
        lines.append(
            f"  - Stage {stage}: {_text(in_width)}→{_text(width)} channels, {_text(count)} "
            f"blocks, stride {_text(stride)}"
        )
    return lines


def _setting_line(title: str, values: Sequence[str]) -> Iterator[str]:
    """Yield a line of the configuration, or none if the values of all runs are empty."""
    text = values[0]
    if len({*values}) > 1:
        text = ", ".join(f"{value or 'none'} (Run {n})" for n, value in enumerate(values, start=1))
    if text:
        yield f"- **{title}**: {text}"


def _environment(logs: Sequence[RunLog]) -> Iterator[str]:
    records = [log.run.record for log in logs]
    torch = [record.versions.get("torch") for record in records]
    times = [
        format_duration(record.seconds) if record.seconds else "Not logged" for record in records
    ]
    frameworks = [f"PyTorch {_text(version)}" if version else "" for version in torch]
    yield from _setting_line("Device", [_text(record.device) for record in records])
    yield from _setting_line("Precision", [_text(record.precision) for record in records])
    yield from _setting_line("Framework", frameworks)
    yield from _setting_line("Training Time", times)


def _whole(count: float | None) -> str:
    return format_number(count, 0)


def _gain(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _relative_gain(before: float | None, after: float | None) -> float | None:
    """Return by how many percent a value is larger than the value before."""
    return 100 * (after - before) / before if before and after is not None else None


def _heading(name: str) -> str:
    """Return a setting's heading, `Early Stopping Min Delta` for `early_stopping.min_delta`."""
    return TITLES.get(name) or _text(re.sub(r"[._]+", " ", name).title())


def _class(target: Any) -> str:
    return _text(target.rpartition(".")[2]) if isinstance(target, str) else ""


def _text(value: Any) -> str:
    """Return a value as one line of text, with Markdown's markup escaped."""
    if value is None:
        return ""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(safe_text(value).split()))
