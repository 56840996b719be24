"""Gathers what benchmarks/answers.sh has trained into a document: sentences, tables, pictures.

python -m benchmarks.answers DIRECTORY -o docs/explanation/answers.md

Whatever isn't there is said to be missing. What stands under the document's last heading is written
by people, and stays.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from benchmarks.answered import LOGGED, REFERENCES, Sweep, logged_until
from benchmarks.best_recipe import effects
from resnet_sweep.compare.comparison import OUTCOMES
from resnet_sweep.compare.diff_columns import MISSING, variants
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.compare.format import format_table, shown, span
from resnet_sweep.compare.group import (
    COMPLETE,
    Group,
    Statistic,
    replicates,
    spread,
)
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import MeanDifference
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
BY_PEOPLE = "## What next?"
# The log's best accuracy, to be reached in less time, and the one to be reached at all.
TARGET = max(entry.record.best["val_acc"] for entry in LOGGED)
AIM = 80.0
MOST_TRIALS = 10
# Those which the log tells of first, and what it tells of them: column, name, digits, unit.
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


def readings(sweep: Sweep) -> Iterator[str]:
    """Which reading of the architecture is nearer to the log, and both beside the log's figures."""
    groups = named(replicates(sweep.entries))
    yield from nearest(sweep.entries)
    log = {f"{run.name}, epoch {sweep.epochs}": Group([run]) for run in logged_until(sweep.epochs)}
    yield from figures(log | groups)
    yield from epochs({run.name: Group([run]) for run in LOGGED} | groups, sweep.epochs)
    yield from block(NearestRuns(sweep.entries, REFERENCES).lines(None))
    yield from sweep.picture(groups)


def candidates(sweep: Sweep) -> Iterator[str]:
    """All that the log leaves open, by distance; the readings have more seeds of two of them."""
    more = Sweep(sweep.top, f"{sweep.part}/readings", sweep.output).entries
    found = NearestRuns([*sweep.entries, *more], REFERENCES)
    first = [found.ranked(name)[0] for name in REFERENCES]
    yield from nearest([*sweep.entries, *more])
    yield from open_questions(sweep)
    yield from block(found.lines(None))
    yield from sweep.picture(
        {name: group for name, group in named(found.groups).items() if group in first}
    )


def open_questions(sweep: Sweep) -> Iterator[str]:
    """What each answer to a question that the log leaves open does to the distances.

    The candidates combine two answers to each in all ways, so that every run tells of every one.
    """
    varied = variants(sweep.entries)
    at_the_end = [entry for entry in sweep.entries if entry.state in COMPLETE]
    if len(at_the_end) < sweep.jobs or sweep.jobs < len(varied) + 2:
        return
    switches = np.array([[value == values[0] for value in values] for values in varied.values()]).T
    others = [next(v for v in values if v != values[0]) for values in varied.values()]
    columns = [
        ["", *(f"{key}={shown(values[0])}" for key, values in varied.items())],
        ["instead of", *map(shown, others)],
    ]
    for reference in REFERENCES:
        objective = Objective("distance_to_reference", reference)
        distances = [objective.value(entry) for entry in sweep.entries]
        if None in distances:
            return
        found = effects(switches, distances)
        columns.append([reference, *(f"{each.mean:+.2f} ± {each.margin:.2f}" for each in found)])
    yield "Effect of each on the distance, over all runs, with half of its interval:\n"
    yield from block(format_table(list(zip(*columns, strict=True)), frozenset((2, 3)), None))


def recommendations(sweep: Sweep) -> Iterator[str]:
    """Which recommendations help, which harm, which are noise."""
    ranking = Ranking(sweep.entries, FilterExpression('experiment == "logged_run_1"'))
    told: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for group, effect in zip(ranking.groups, ranking.effects, strict=True):
        name = group.runs[0].choices["experiment"]
        if effect is not None:
            verdict = ranking.verdict(group, effect)
            told[verdict].append(f"`{name}` ({ranking.objective.difference(effect.mean)})")
        elif group.state == "diverged":
            told["unstable"].append(f"`{name}` (all of them)")
    for verdict, names in told.items():
        yield f"{VERDICTS[verdict]}: {', '.join(names) or 'none'}.\n"
    yield from block(ranking.lines(None))
    yield from (f"{note[0].upper()}{note[1:]}.\n" for note in ranking.notes())


def study(sweep: Sweep) -> Iterator[str]:
    """The best trials of a search, beside the recipe that it began with."""
    ranking = Ranking(sweep.entries)
    header, *lines = ranking.lines(None)
    yield f"Judged on held-out images. Trials: {Group(sweep.entries).state}.\n"
    yield from beside_recipe(ranking, f"{sweep.folder}/0")
    if shares := importances(sweep):
        told = ", ".join(f"`{key}` {share:.0%}" for key, share in shares.items())
        yield f"Importance among the finished trials, by Optuna's functional ANOVA: {told}.\n"
    yield from block([header, *lines[:MOST_TRIALS]])


def beside_recipe(ranking: Ranking, name: str) -> Iterator[str]:
    """What a search found beside the unchanged recipe, a trial that it was told to begin with."""
    groups = ranking.groups
    recipe = next((each for each in groups if any(run.name == name for run in each.runs)), None)
    if recipe is None:
        return
    place = groups.index(recipe) + 1
    told = "The unchanged recipe, which the search tried first,"
    if not recipe.complete:
        yield f"{told} is {recipe.state}.\n"
    elif place == 1:
        yield f"{told} has rank 1.\n"
    else:
        effect = MeanDifference.between(groups[0], recipe, ranking.objective.value)
        yield (
            f"{told} has rank {place}. The best trial has "
            f"{ranking.objective.difference(effect.mean)} points, and looks better than it is, "
            "since it was chosen.\n"
        )


def importances(sweep: Sweep) -> dict[str, float]:
    """How much of the variance over the finished trials each hyperparameter makes, 1 in all."""
    storage = find_storage(sweep.top / sweep.folder)
    if storage is None:
        return {}
    (name,) = (each.study_name for each in storage.get_all_studies())
    found = optuna.load_study(study_name=name, storage=storage)
    finished = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in finished}) < 2:
        return {}
    return get_param_importances(found, evaluator=FanovaImportanceEvaluator(seed=0))


def best(sweep: Sweep) -> Iterator[str]:
    """How the best recipe was chosen, and what it comes to on the test set."""
    search = sweep.top / sweep.part / "search.md"
    if search.exists():
        yield "Chosen on held-out images, by trying all of the log's recommendations at once:\n"
        yield search.read_text().partition("\nChosen")[0]
    (group,) = replicates(sweep.entries)
    tested = Statistic.of(map(test_accuracy, group.counted))
    if tested is None:
        yield "Not tested yet.\n"
    else:
        reached = "reached" if tested.mean >= AIM else "missed"
        yield (
            f"On the test set, read once: {spread(tested, 2, '%')}, n = {tested.n}; the aim of "
            f"{AIM:.0f}% is {reached}.\n"
        )
    yield from figures({"on held-out images": group})
    yield from sweep.picture({"best recipe": group})


def lengths(sweep: Sweep) -> Iterator[str]:
    """When runs of several lengths come to the log's best accuracy."""
    groups = sorted(replicates(sweep.entries), key=length)
    times = [Statistic.of(map(time_to_target, group.counted)) for group in groups]
    always = [
        (time.mean, length(group))
        for group, time in zip(groups, times, strict=True)
        if time is not None and time.n == len({entry.settings["seed"] for entry in group.runs})
    ]
    if always:
        seconds, epochs = min(always)
        yield f"Shortest of those whose seeds all reach it: {span(seconds)}, of {epochs} epochs.\n"
    else:
        yield f"Of no length do all seeds reach {TARGET:.2f}%.\n"
    rows = [["epochs", "n", "best", f"reach {TARGET:.2f}%", "in seconds"]]
    for group, time in zip(groups, times, strict=True):
        accuracy = spread(group.statistic(Objective().value), 2, "%")
        reach = (str(time.n), spread(time, 1)) if time else ("0", "")
        rows.append([str(length(group)), str(len(group.counted)), accuracy, *reach])
    yield from block(format_table(rows, frozenset(range(5)), None))
    yield from sweep.picture(named(groups))


SECTIONS = {
    "What were run 1 and run 2?": (
        ("gpu/readings", "Both readings of the architecture", readings),
        ("gpu/identify", "All that the log leaves open", candidates),
        ("cpu/first_epochs", "Both readings, their first epochs", readings),
    ),
    "Which recommendations help?": (
        ("gpu/recommended", "The log's network and length", recommendations),
        ("cpu/recommended", "A smaller network, fewer images and epochs", recommendations),
        ("cpu/study", "Learning rate, weight decay and dropout, searched", study),
    ),
    "How far does this architecture come?": (
        ("gpu/best", "The best recipe", best),
        ("gpu/lengths", f"In less time to {TARGET:.2f}%", lengths),
    ),
}


def write(top: Path, output: Path) -> None:
    """Write the document.

    Raises:
        ConfigError: there is no run to report.
    """
    parts, found = [INTRODUCTION], False
    for question, sections in SECTIONS.items():
        parts.append(f"## {question}\n")
        for folder, title, tell in sections:
            sweep = Sweep(top, folder, output)
            parts.append(f"### {title}\n")
            if sweep.entries:
                found = True
                parts += [*sweep.provenance(), *tell(sweep)]
            else:
                parts.append(f"Not run yet. `benchmarks/answers.sh {sweep.part}` runs it.\n")
    if not found:
        raise ConfigError(
            f"{shown(str(top))} has no runs to tell of: start benchmarks/answers.sh gpu (or cpu) "
            f"{shown(str(top))}"
        )
    before = output.read_text() if output.exists() else ""
    by_people = before.partition(BY_PEOPLE)[2] or "\n\nNobody has said yet.\n"
    write_atomically(output, ("\n".join(parts) + f"\n{BY_PEOPLE}{by_people}").encode())


def nearest(entries: Sequence[LoadedRun]) -> Iterator[str]:
    """Which candidate came nearest to each logged run, and by how much the next is farther."""
    found = NearestRuns(entries, REFERENCES)
    names = {id(group): name for name, group in named(found.groups).items()}
    for reference in REFERENCES:
        objective = Objective("distance_to_reference", reference)
        first, *others = found.ranked(reference)
        told = [
            f"`{names[id(group)]}` ({spread(group.statistic(objective.value), 2)} points, "
            f"n = {len(group.counted)})"
            for group in (first, *others[:1])
        ]
        sentence = f"Nearest to `{reference}` is {told[0]}"
        if others and (effect := MeanDifference.between(others[0], first, objective.value)):
            ends = ", ".join(map(objective.difference, effect.interval or ()))
            sentence += f"; next is {told[1]}, {objective.difference(effect.mean)} points"
            sentence += f" [{ends}]" if ends else ""
            sentence += {
                "within noise": ", which is within noise: these curves don't distinguish the two",
                "too few runs": ", with too few runs to distinguish that from noise",
            }.get(effect.verdict(objective.gain), ", beyond noise")
        yield f"{sentence}.\n"


def named(groups: Sequence[Group]) -> dict[str, Group]:
    """Groups by what tells them apart, as overrides."""
    varied = variants([group.runs[0] for group in groups])
    found = {}
    for at, group in enumerate(groups):
        words = [
            f"{key}={shown(values[at])}"
            for key, values in varied.items()
            if values[at] is not MISSING
        ]
        found[" ".join(words) or "these runs"] = group
    return found


def figures(groups: Mapping[str, Group]) -> Iterator[str]:
    """The accuracies and losses of named groups of runs, a row each."""
    columns = [["", *groups], ["n", *(str(len(group.counted)) for group in groups.values())]]
    for figure in OUTCOMES:
        if figure.name.endswith(("accuracy", "loss")):
            unit, digits = ("", 4) if figure.name.endswith("loss") else ("%", 2)
            found = [
                group.statistic(lambda run, of=figure.of: of(run.record))
                for group in groups.values()
            ]
            columns.append([figure.name, *(spread(each, digits, unit) for each in found)])
    rows = list(zip(*columns, strict=True))
    yield from block(format_table(rows, frozenset(range(1, len(columns))), None))


def epochs(groups: Mapping[str, Group], last: int) -> Iterator[str]:
    """How far named groups of runs were at the log's key epochs, and at the last that there is."""
    rows = [("epoch", "", *(name for _, name, *_ in CURVES))]
    for epoch in sorted({each for each in KEY_EPOCHS if each < last} | {last}):
        for name, group in groups.items():
            found = [
                spread(group.statistic(partial(reached, epoch, column)), digits, unit)
                for column, _, digits, unit in CURVES
            ]
            rows.append((str(epoch), name, *found))
    yield from block(format_table(rows, frozenset({0, *range(2, 2 + len(CURVES))}), None))


def reached(epoch: int, column: str, run: LoadedRun) -> float | None:
    """A run's figure at the end of an epoch; None if it hasn't come so far."""
    return next((row.get(column) for row in run.metrics.rows if row["epoch"] == epoch), None)


def block(lines: Sequence[str]) -> Iterator[str]:
    """Lines whose columns stand below each other."""
    yield "```\n" + "\n".join(lines) + "\n```\n"


def test_accuracy(entry: LoadedRun) -> float | None:
    """What `resnet_sweep evaluate` found of the best epoch, percent; None if it wasn't asked."""
    path = entry.directory / "evaluation" / "evaluation.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    best = entry.record.best or {}
    return found["top1"] if found and found["epoch"] == best.get("epoch") else None


def time_to_target(entry: LoadedRun) -> float | None:
    """Seconds until the end of the first epoch with the log's best accuracy; None without one."""
    passed = 0.0
    for row in entry.metrics.rows:
        passed += row["seconds"]
        if row["val_acc"] >= TARGET:
            return passed
    return None


def length(group: Group) -> int:
    """The epochs that were asked for."""
    return group.runs[0].settings["trainer.epochs"]


def main() -> None:
    """Gather the runs that a command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.answers",
        description="Write the results of runs into docs/explanation/answers.md.",
    )
    parser.add_argument("directory", type=Path, help="that benchmarks/answers.sh was given")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the document")
    arguments = parser.parse_args()
    run_command(lambda: write(arguments.directory, arguments.output))


if __name__ == "__main__":
    main()
