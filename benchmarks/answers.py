"""Write docs/explanation/answers.md from the runs of benchmarks/answers.sh.

python -m benchmarks.answers DIRECTORY -o docs/explanation/answers.md

The document contains sentences, tables and curves. Sections without runs say so. The text from the
heading "What next?" on is written by hand, and isn't changed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from benchmarks.best_recipe import effects
from benchmarks.command_line import make_parser
from benchmarks.recorded_curves import Curves
from benchmarks.recorded_curves import answers as recorded_answers
from benchmarks.reported_sweep import LOGGED, REFERENCES, ReportedSweep, logged_until
from resnet_sweep.compare.comparison import SUMMARY_METRICS
from resnet_sweep.compare.diff_columns import MISSING, variants
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.compare.format import format_duration, format_table, safe_text
from resnet_sweep.compare.group import (
    COMPLETE,
    Group,
    Statistic,
    format_mean_sd,
    group_replicates,
)
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import MeanDifference, verdicts
from resnet_sweep.compare.ranking import NearestRuns, Ranking
from resnet_sweep.console import run_command
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.studies.storage import find_storage

INTRODUCTION = """\
# Answers

This page reports what the runs of `benchmarks/answers.sh` show: what the two runs of the training
log were, which of its recommendations help, and how far the architecture gets. Sections that
haven't been run yet say so. `python -m benchmarks.answers` writes the page up to "What next?".

Values are mean ± standard deviation over n seeds, and intervals are 95% intervals.
[Replicates, differences and verdicts](statistics.md) defines distances, differences and verdicts.
The validation images are the test images, as in the log, unless images were held out.
"""
HANDWRITTEN = "## What next?"
# The log's best accuracy, and the accuracy that the log aims for, percent.
TARGET = max(run.record.best["val_acc"] for run in LOGGED)
AIM = 80.0
MAX_TRIALS = 10
# The key epochs of the log, and the values that the log reports: column, name, digits, unit.
KEY_EPOCHS = (1, 10, 25, 50, 75, 100)
CURVES = (
    ("train_acc", "training accuracy", 2, "%"),
    ("val_acc", "validation accuracy", 2, "%"),
    ("train_loss", "training loss", 4, ""),
)
VERDICTS = {
    "better": "Help",
    "worse": "Harm",
    "within noise": "Within noise",
    "unstable": "Some seeds diverge",
    "too few runs": "Too few runs",
}


def readings(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section that compares the readings of the architecture with the log."""
    groups = name_groups(group_replicates(sweep.runs))
    yield from nearest(sweep.runs)
    log = {f"{run.name}, epoch {sweep.epochs}": Group([run]) for run in logged_until(sweep.epochs)}
    yield from results_table(log | groups)
    yield from epochs_table({run.name: Group([run]) for run in LOGGED} | groups, sweep.epochs)
    yield from code_block(NearestRuns(sweep.runs, REFERENCES).lines(None))
    yield from sweep.plot_curves(groups)


def candidates(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section that ranks the candidates for the logged runs by distance.

    The runs of the readings, which are further seeds of two candidates, are included.
    """
    readings = ReportedSweep(sweep.top, f"{sweep.part}/readings", sweep.output).runs
    runs = [*sweep.runs, *readings]
    ranking = NearestRuns(runs, REFERENCES)
    first = [ranking.ranked(name)[0] for name in REFERENCES]
    yield from nearest(runs)
    yield from open_settings(sweep)
    yield from code_block(ranking.lines(None))
    yield from sweep.plot_curves(
        {name: group for name, group in name_groups(ranking.groups).items() if group in first}
    )


def open_settings(sweep: ReportedSweep) -> Iterator[str]:
    """Yield a table with the effect of each setting that the log doesn't state on the distance.

    The candidates are all combinations of the values of each setting, so each effect is estimated
    from all runs. There is no table before all runs are complete.
    """
    # The first value of a setting is compared with each of its other values.
    compared = [
        (key, values, other)
        for key, values in variants(sweep.runs).items()
        for number, other in enumerate(values)
        if other not in values[:number] and number
    ]
    complete = [run for run in sweep.runs if run.state in COMPLETE]
    if len(complete) < sweep.jobs or sweep.jobs < len(compared) + 2:
        return
    switches = np.array([[value != other for value in values] for _, values, other in compared]).T
    columns = [
        ["", *(f"{key}={safe_text(values[0])}" for key, values, _ in compared)],
        ["instead of", *(safe_text(other) for *_, other in compared)],
    ]
    for reference in REFERENCES:
        objective = Objective("distance_to_reference", reference)
        distances = [objective.value(run) for run in sweep.runs]
        if None in distances:
            return
        cells = [
            f"{effect.mean:+.2f} ± {effect.margin:.2f}" for effect in effects(switches, distances)
        ]
        columns.append([reference, *cells])
    yield "Effect of each setting on the distance over all runs, ± half of its interval:\n"
    yield from code_block(format_table(list(zip(*columns, strict=True)), frozenset((2, 3)), None))


def recommendations(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section that lists the recommendations by verdict."""
    ranking = Ranking(sweep.runs, FilterExpression('experiment == "logged_run_1"'))
    names: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for group, effect, verdict in zip(
        ranking.groups, ranking.differences, ranking.verdicts, strict=True
    ):
        name = group.runs[0].choices["experiment"]
        if effect is not None:
            difference = ranking.objective.format_difference(effect.mean)
            names[verdict].append(f"`{name}` ({difference})")
        elif group.state == "diverged":
            names["unstable"].append(f"`{name}` (all seeds)")
    for found, label in VERDICTS.items():
        yield f"{label}: {', '.join(names[found]) or 'none'}.\n"
    yield from code_block(ranking.lines(None))
    yield from (f"{note[0].upper()}{note[1:]}.\n" for note in ranking.notes())


def study(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section with the best trials of a search and the rank of the unchanged recipe."""
    ranking = Ranking(sweep.runs)
    header, *lines = ranking.lines(None)
    yield f"Ranked on held-out images. Trials: {Group(sweep.runs).state}.\n"
    yield from recipe_rank(ranking, f"{sweep.folder}/0")
    if importances := parameter_importances(sweep):
        shares = ", ".join(f"`{key}` {share:.0%}" for key, share in importances.items())
        yield f"Importance among the finished trials, by Optuna's functional ANOVA: {shares}.\n"
    yield from code_block([header, *lines[:MAX_TRIALS]])


def recorded() -> Iterator[str]:
    """Yield the section about the recorded runs, which are part of the repository."""
    curves = Curves.read()
    yield "### Sixteen variants of a short training\n"
    yield f"`python -m benchmarks.recorded_curves --train DIRECTORY --seeds {len(curves.seeds)}`\n"
    yield (
        "These runs train `resnet8v2` on 2,500 images for 12 epochs in batches of 32, and are "
        "validated on 2,500 other training images. Their curves are in "
        "`benchmarks/data/recorded_curves.csv.gz`.\n"
    )
    yield f"{recorded_answers(curves)}\n"


def recipe_rank(ranking: Ranking, name: str) -> Iterator[str]:
    """Yield the rank of the unchanged recipe, and the difference to the best trial.

    Args:
        ranking: of all trials.
        name: of the run of the first trial, which is the unchanged recipe.
    """
    groups = ranking.groups
    recipe = next((group for group in groups if any(run.name == name for run in group.runs)), None)
    if recipe is None:
        return
    rank = groups.index(recipe) + 1
    subject = "The unchanged recipe, which the search tried first,"
    if not recipe.complete:
        yield f"{subject} is {recipe.state}.\n"
    elif rank == 1:
        yield f"{subject} has rank 1.\n"
    else:
        effect = MeanDifference.between(groups[0], recipe, ranking.objective.value)
        difference = ranking.objective.format_difference(effect.mean)
        yield (
            f"{subject} has rank {rank}. The best trial has {difference} points, and looks better "
            "than it is, since it was chosen.\n"
        )


def parameter_importances(sweep: ReportedSweep) -> dict[str, float]:
    """Return the importance of each parameter for the results of the finished trials; sum 1."""
    storage = find_storage(sweep.top / sweep.folder)
    if storage is None:
        return {}
    (name,) = (study.study_name for study in storage.get_all_studies())
    study = optuna.load_study(study_name=name, storage=storage)
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in finished}) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def best(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section with the choice of the best recipe, and its accuracy on the test set."""
    search = sweep.top / sweep.part / "search.md"
    if search.exists():
        yield "Chosen on held-out images, by trying all of the log's recommendations at once:\n"
        yield search.read_text().partition("\nChosen")[0]
    (group,) = group_replicates(sweep.runs)
    tested = Statistic.from_values(map(test_accuracy, group.counted))
    if tested is None:
        yield "Not tested yet.\n"
    else:
        reached = "reached" if tested.mean >= AIM else "missed"
        yield (
            f"On the test set, read once: {format_mean_sd(tested, 2, '%')}, n = {tested.n}; "
            f"the aim of {AIM:.0f}% is {reached}.\n"
        )
    yield from results_table({"on held-out images": group})
    yield from sweep.plot_curves({"best recipe": group})


def lengths(sweep: ReportedSweep) -> Iterator[str]:
    """Yield the section with the time in which runs of several lengths reach the log's best."""
    groups = sorted(group_replicates(sweep.runs), key=length)
    times = [Statistic.from_values(map(time_to_target, group.counted)) for group in groups]
    reached_by_all = [
        (time.mean, length(group))
        for group, time in zip(groups, times, strict=True)
        if time is not None and time.n == len({run.settings["seed"] for run in group.runs})
    ]
    if reached_by_all:
        seconds, epochs = min(reached_by_all)
        yield (
            "Shortest mean time of a length that reaches it with all seeds: "
            f"{format_duration(seconds)}, with {epochs} epochs.\n"
        )
    else:
        yield f"No length reaches {TARGET:.2f}% with all seeds.\n"
    rows = [["epochs", "n", "best", f"seeds that reach {TARGET:.2f}%", "seconds to it"]]
    for group, time in zip(groups, times, strict=True):
        accuracy = format_mean_sd(group.statistic(Objective().value), 2, "%")
        cells = (str(time.n), format_mean_sd(time, 1)) if time else ("0", "")
        rows.append([str(length(group)), str(len(group.counted)), accuracy, *cells])
    yield from code_block(format_table(rows, frozenset(range(5)), None))
    yield from sweep.plot_curves(name_groups(groups))


# The question that the recorded runs answer, too.
RECORDED_QUESTION = "Which recommendations help?"

SECTIONS = {
    "What were run 1 and run 2?": (
        ("gpu/readings", "The readings of the architecture", readings),
        ("gpu/identify", "Candidates for the settings that the log doesn't state", candidates),
        ("cpu/first_epochs", "The first epochs of both readings", readings),
    ),
    RECORDED_QUESTION: (
        ("gpu/recommended", "The log's network and length", recommendations),
        ("cpu/recommended", "A smaller network, fewer images and epochs", recommendations),
        ("cpu/study", "A search for learning rate, weight decay and dropout", study),
    ),
    "How accurate does the architecture get?": (
        ("gpu/best", "The best recipe", best),
        ("gpu/how_long", "The accuracy over the length", lengths),
        ("gpu/lengths", f"The time to {TARGET:.2f}%", lengths),
    ),
}


def write(top: Path, output: Path) -> None:
    """Write the document from the runs in a directory.

    Raises:
        ConfigError: the directory contains no runs.
    """
    parts, has_runs = [INTRODUCTION], False
    for question, sections in SECTIONS.items():
        parts.append(f"## {question}\n")
        for folder, title, write_section in sections:
            sweep = ReportedSweep(top, folder, output)
            parts.append(f"### {title}\n")
            if sweep.runs:
                has_runs = True
                parts += [*sweep.provenance(), *write_section(sweep)]
            else:
                parts.append(f"Not run yet. `benchmarks/answers.sh {sweep.part}` runs it.\n")
        if question == RECORDED_QUESTION:
            parts += recorded()
    if not has_runs:
        directory = safe_text(str(top))
        raise ConfigError(
            f"{directory} contains no runs: first run benchmarks/answers.sh gpu {directory}, "
            "or the same with cpu"
        )
    previous = output.read_text() if output.exists() else ""
    handwritten = previous.partition(HANDWRITTEN)[2] or "\n\nNot written yet.\n"
    write_atomically(output, ("\n".join(parts) + f"\n{HANDWRITTEN}{handwritten}").encode())


def nearest(runs: Sequence[LoadedRun]) -> Iterator[str]:
    """Yield the nearest candidate for each logged run, and its difference to the next one."""
    ranking = NearestRuns(runs, REFERENCES)
    names = {id(group): name for name, group in name_groups(ranking.groups).items()}
    for reference in REFERENCES:
        objective = Objective("distance_to_reference", reference)
        first, *others = ranking.ranked(reference)
        descriptions = [
            f"`{names[id(group)]}` ({format_mean_sd(group.statistic(objective.value), 2)} points, "
            f"n = {len(group.counted)})"
            for group in (first, *others[:1])
        ]
        sentence = f"Nearest to `{reference}` is {descriptions[0]}"
        if others and (effect := MeanDifference.between(others[0], first, objective.value)):
            ends = ", ".join(map(objective.format_difference, effect.interval() or ()))
            difference = objective.format_difference(effect.mean)
            sentence += f"; next is {descriptions[1]}, {difference} points"
            sentence += f" [{ends}]" if ends else ""
            sentence += {
                "within noise": ", which is within noise: these curves don't distinguish the two",
                "too few runs": ", with too few runs to distinguish that from noise",
            }.get(verdicts([effect], objective.gain)[0], ", beyond noise")
        yield f"{sentence}.\n"


def name_groups(groups: Sequence[Group]) -> dict[str, Group]:
    """Return the groups by the overrides that distinguish them."""
    varied = variants([group.runs[0] for group in groups])
    named = {}
    for index, group in enumerate(groups):
        overrides = [
            f"{key}={safe_text(values[index])}"
            for key, values in varied.items()
            if values[index] is not MISSING
        ]
        named[" ".join(overrides) or "these runs"] = group
    return named


def results_table(groups: Mapping[str, Group]) -> Iterator[str]:
    """Yield a table of accuracies and losses, with a row for each named group."""
    columns = [["", *groups], ["n", *(str(len(group.counted)) for group in groups.values())]]
    for metric in SUMMARY_METRICS:
        if metric.name.endswith(("accuracy", "loss")):
            unit, digits = ("", 4) if metric.name.endswith("loss") else ("%", 2)
            statistics = [group.statistic(metric.get) for group in groups.values()]
            cells = (format_mean_sd(statistic, digits, unit) for statistic in statistics)
            columns.append([metric.name, *cells])
    rows = list(zip(*columns, strict=True))
    yield from code_block(format_table(rows, frozenset(range(1, len(columns))), None))


def epochs_table(groups: Mapping[str, Group], last: int) -> Iterator[str]:
    """Yield a table of named groups at the key epochs of the log and at the last epoch."""
    rows = [("epoch", "", *(name for _, name, *_ in CURVES))]
    for epoch in sorted({key for key in KEY_EPOCHS if key < last} | {last}):
        for name, group in groups.items():
            cells = [
                format_mean_sd(group.statistic(partial(value_at, epoch, column)), digits, unit)
                for column, _, digits, unit in CURVES
            ]
            rows.append((str(epoch), name, *cells))
    yield from code_block(format_table(rows, frozenset({0, *range(2, 2 + len(CURVES))}), None))


def value_at(epoch: int, column: str, run: LoadedRun) -> float | None:
    """Return a value of a run at the end of an epoch; None if the run doesn't have that epoch."""
    return next((row.get(column) for row in run.metrics.rows if row["epoch"] == epoch), None)


def code_block(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines as a code block, which keeps columns aligned."""
    yield "```\n" + "\n".join(lines) + "\n```\n"


def test_accuracy(run: LoadedRun) -> float | None:
    """Return the test accuracy of the best epoch, percent; None before `resnet_sweep evaluate`."""
    path = run.directory / "evaluation" / "evaluation.json"
    evaluation = json.loads(path.read_text()) if path.exists() else {}
    best = run.record.best or {}
    return evaluation["top1"] if evaluation and evaluation["epoch"] == best.get("epoch") else None


def time_to_target(run: LoadedRun) -> float | None:
    """Return the seconds to the end of the first epoch that reaches TARGET; None without one."""
    seconds = 0.0
    for row in run.metrics.rows:
        seconds += row["seconds"]
        if row["val_acc"] >= TARGET:
            return seconds
    return None


def length(group: Group) -> int:
    """Return the setting `trainer.epochs` of a group."""
    return group.runs[0].settings["trainer.epochs"]


def main() -> None:
    """Write the document that the command line names."""
    parser = make_parser("answers", __doc__)
    parser.add_argument("directory", type=Path, help="directory given to benchmarks/answers.sh")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the document")
    arguments = parser.parse_args()
    run_command(lambda: write(arguments.directory, arguments.output))


if __name__ == "__main__":
    main()
