"""The training log of one or two runs, in Markdown; its layout is in training_log.md.jinja."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from resnet_sweep.compare.format import number, percent, shown, shown_briefly, span
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import COLUMNS, best_row

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


# The values of an epoch by the columns of metrics.csv, None where they aren't known.
Epoch = Mapping[str, Any]
UNKNOWN: Epoch = dict.fromkeys(COLUMNS)


@dataclass(frozen=True)
class RunLog:
    """A run with the values that the tables of the log have.

    Attributes:
        number: the number of the run in the log, from 1.
        run: the run.
        epochs: all epochs in `metrics.csv`.
        calculated: the best of them.
        best, final: the best epoch and the last in the record.
    """

    number: int
    run: LoadedRun
    epochs: Sequence[Epoch]
    calculated: Epoch
    best: Epoch
    final: Epoch

    @classmethod
    def of(cls, number: int, run: LoadedRun | BrokenRun) -> "RunLog":
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
            f"there is no training log of {shown(run.name)}, because "
            f"{shown(problem or 'it has no complete epoch')}: name another run"
        )

    @property
    def gap(self) -> float | None:
        """Final training accuracy minus final validation accuracy, in points."""
        return _gain(self.final["val_acc"], self.final["train_acc"])

    @property
    def disagreement(self) -> str | None:
        """Where the record and the metrics contradict each other; None if they don't."""
        last, final = self.epochs[-1]["epoch"], self.final["epoch"]
        if last != final:
            return f"metrics.csv ends at epoch {_whole(last)}, run.json at {_whole(final)}"
        recorded, calculated = (
            f"{percent(epoch['val_acc'])} in epoch {_whole(epoch['epoch'])}"
            for epoch in (self.best, self.calculated)
        )
        if recorded != calculated:
            return f"the best is {recorded} in run.json, {calculated} in metrics.csv"
        return None

    def key_epochs(self) -> Iterator[tuple[Epoch, str]]:
        """Yield the first, the best and the last epoch and those between, with their names."""
        last = len(self.epochs)
        numbers = [epoch["epoch"] for epoch in self.epochs]
        names = {1: ["Initial"]}
        names.setdefault(last, ["Final" if numbers[-1] == self.final["epoch"] else "Last known"])
        for share, name in KEY_EPOCHS:
            # In a short run, several shares are the same epoch.
            names.setdefault(max(1, round(share * last)), [name])
        if self.best["epoch"] in numbers:
            best = numbers.index(self.best["epoch"]) + 1
            names.setdefault(best, []).append("**Best validation**")
        for place in sorted(names):
            yield self.epochs[place - 1], ", ".join(names[place])


def write_log(runs: Sequence[LoadedRun | BrokenRun]) -> str:
    """Return the training log of one run, or of two with their comparison.

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
    best = max(logs, key=lambda log: log.best["val_acc"] or 0.0)
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
        "loss": partial(number, digits=4),
        "whole": _whole,
        "span": span,
        "text": _text,
        "gain": lambda before, after: number(_gain(before, after), 2, "%", sign="+"),
        "relative_gain": lambda before, after: number(
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
    """Yield the lines of a section of the configuration; where runs differ, with all values."""
    for group in SECTIONS[title]:
        if group != "trainer":
            yield from _stated(TITLES[group], [_choice(log, group) for log in logs])
        prefix = f"{group}."
        for name in dict.fromkeys(name for log in logs for name in log.run.settings):
            if name.startswith(prefix) and name != f"{prefix}_target_":
                heading = name.removeprefix(prefix).removesuffix("._target_")
                yield from _stated(_heading(heading), _values(logs, name))
    records = [log.run.record for log in logs]
    if title == "Architecture Details":
        stages, *others = map(_stages, logs)
        if all(other == stages for other in others):
            yield from stages
        counts = [record.parameters for record in records]
        yield from _stated("Total Parameters", ["" if n is None else _whole(n) for n in counts])
    elif title == "Training Configuration":
        yield from _stated("Seed", [_text(record.seed) for record in records])


def _choice(log: RunLog, group: str) -> str:
    """Return the choice made in a config group, with the class that it names."""
    choice = _text(log.run.choices.get(group))
    name = _class(log.run.settings.get(f"{group}._target_"))
    return f"{choice} ({name})" if choice and name else choice or name


def _values(logs: Sequence[RunLog], name: str) -> list[str]:
    """Return a setting of each run as text, empty where it isn't set."""
    values = [log.run.settings.get(name) for log in logs]
    if name.endswith("._target_"):
        return [_class(value) for value in values]
    return [_text(text) for text in shown_briefly(["" if v in (None, {}) else v for v in values])]


def _stages(log: RunLog) -> list[str]:
    """Return the lines on the stages of a ResNet of basic blocks, none for other networks."""
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
    for at, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True)):
        lines.append(
            f"  - Stage {at + 1}: {_text(inputs[at])}→{_text(width)} channels, {_text(count)} "
            f"blocks, stride {_text(stride)}"
        )
    return lines


def _stated(title: str, values: Sequence[str]) -> Iterator[str]:
    """Yield a line of the configuration, none where no run states anything."""
    text = values[0]
    if len({*values}) > 1:
        text = ", ".join(f"{value or 'none'} (Run {n})" for n, value in enumerate(values, start=1))
    if text:
        yield f"- **{title}**: {text}"


def _environment(logs: Sequence[RunLog]) -> Iterator[str]:
    records = [log.run.record for log in logs]
    torch = [record.versions.get("torch") for record in records]
    times = [span(record.seconds) if record.seconds else "Not logged" for record in records]
    yield from _stated("Device", [_text(record.device) for record in records])
    yield from _stated("Precision", [_text(record.precision) for record in records])
    yield from _stated("Framework", [f"PyTorch {_text(v)}" if v else "" for v in torch])
    yield from _stated("Training Time", times)


def _whole(count: float | None) -> str:
    return number(count, 0)


def _gain(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _relative_gain(before: float | None, after: float | None) -> float | None:
    """Return by how many percent a value is larger than before."""
    return 100 * (after - before) / before if before and after is not None else None


def _heading(name: str) -> str:
    """Return `early_stopping.min_delta` as `Early Stopping Min Delta`."""
    return TITLES.get(name) or _text(re.sub(r"[._]+", " ", name).title())


def _class(target: Any) -> str:
    return _text(target.rpartition(".")[2]) if isinstance(target, str) else ""


def _text(value: Any) -> str:
    """Return a value as text on one line that Markdown takes for nothing else."""
    if value is None:
        return ""
    return re.sub(r"([\\`*<|]|(?<=\])\()", r"\\\1", " ".join(shown(value).split()))
