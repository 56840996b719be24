"""Which of the log's recommendations help, all tried at once, to choose `best_recipe` by.

python -m benchmarks.best_recipe DIRECTORY [--seeds 2] [WORD...]
python -m benchmarks.best_recipe multirun/best_recipe model=resnet8v2 data.limit_train=5000

One sweep has 12 jobs a seed, in each of which half of the recommendations are on: the design of
Plackett and Burman (1946), in which an effect is the difference between all runs with and all runs
without, as sure as if each recommendation had all the runs to itself. Those whose effect is above
zero are chosen, doubtful or not; whether the choice as a whole is better than the recipe is then
told by both, trained with seeds of their own.
All of it is judged on held-out training images. Started again, it goes on.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf
from scipy import stats

from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.runs.record import ENDED
from resnet_sweep.sweeps.manifest import Manifest

# Of 12 runs, by 11 factors: each row is the one before it, turned by one, and the last has none on.
_FIRST = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
DESIGN = np.array([*(np.roll(_FIRST, turn) for turn in range(11)), np.zeros(11)], dtype=bool)

AUGMENTATION = "augmentation"


class Recommendation(NamedTuple):
    """A change of the recipe.

    Attributes:
        name: of its experiment.
        key: that it sets.
        off, on: values of the key, as a run records them.
    """

    name: str
    key: str
    off: str
    on: str


# At most 11. What is left out changes what a run costs, or its length.
RECOMMENDATIONS = (
    Recommendation("weight_decay_1e-3", "optim.weight_decay", "0.0005", "0.001"),
    Recommendation("lr_0.05", "optim.lr", "0.1", "0.05"),
    Recommendation("dropout_0.2", "model.dropout", "0.1", "0.2"),
    Recommendation("label_smoothing", "loss", "cross_entropy", "label_smoothing"),
    Recommendation("se_attention", "model.attention", "null", "se"),
    Recommendation("warm_restarts", "schedule", "cosine", "cosine_warm_restarts"),
    Recommendation("cutout", AUGMENTATION, "", "cutout"),
    Recommendation("color_jitter", AUGMENTATION, "", "color_jitter"),
    Recommendation("cutmix", AUGMENTATION, "", "cutmix"),
    Recommendation("mixup", AUGMENTATION, "", "mixup"),
)


class Effect(NamedTuple):
    """What a recommendation does to the validation accuracy.

    Attributes:
        mean: percentage points.
        margin: half of the 95% interval.
    """

    mean: float
    margin: float


def settings(chosen: Sequence[bool]) -> dict[str, str]:
    """The value of each key when some recommendations are on.

    Args:
        chosen: whether each is on, in the order of RECOMMENDATIONS.
    """
    values: dict[str, str] = {}
    augmentations = []
    for each, on in zip(RECOMMENDATIONS, chosen, strict=True):
        if each.key == AUGMENTATION:
            augmentations += [each.on] if on else []
        else:
            values[each.key] = each.on if on else each.off
    # Two that mix labels take turns, as in Touvron et al. (2021).
    if {"cutmix", "mixup"} <= {*augmentations}:
        augmentations = [name for name in augmentations if name not in ("cutmix", "mixup")]
        augmentations.append("cutmix_mixup")
    values[AUGMENTATION] = f"[{','.join(augmentations)}]" if augmentations else "standard"
    return values


def effects(switches: np.ndarray, values: Sequence[float]) -> list[Effect]:
    """The main effects by least squares, with their intervals by Student's t.

    Args:
        switches: (runs, factors), whether each factor is on.
        values: (runs,) what came of them.
    """
    matrix = np.column_stack([np.ones(len(values)), switches.astype(float)])
    solution, *_ = np.linalg.lstsq(matrix, np.asarray(values), rcond=None)
    freedom = len(values) - matrix.shape[1]
    residuals = np.asarray(values) - matrix @ solution
    covariance = np.linalg.inv(matrix.T @ matrix) * (residuals @ residuals / freedom)
    margins = stats.t.ppf(0.975, freedom) * np.sqrt(np.diag(covariance))
    return [Effect(*each) for each in zip(solution[1:], margins[1:], strict=True)]


def sweep(directory: Path, jobs: Sequence[dict[str, str]], words: Sequence[str]) -> list[LoadedRun]:
    """Train some combinations, all of them here; returns all runs, those that diverged as well."""
    keys = list(jobs[0])
    lists = [f"{key}={','.join(job[key] for job in jobs)}" for key in keys]
    command = [
        sys.executable,
        "-m",
        "resnet_sweep",
        "--multirun",
        *lists,
        f"zip=[{','.join(keys)}]",
        f"hydra.sweep.dir={directory}",
        "hydra/launcher=pool",
        "logger=csv",
        "reuse=false",
        *words,
    ]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=sys.stderr)
    # Who asks this one to stop means the one that it waits for, which saves before it ends.
    before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    status = process.wait()
    signal.signal(signal.SIGTERM, before)
    jobs = Manifest.read(directory).jobs
    found = [load_run(directory / job.directory, f"{job.number}") for job in jobs]
    # Runs that diverge have come to their end as well, and their sweep says so by its status.
    if status != 0 and not (status == 1 and all(each.state in ENDED for each in found)):
        print(
            f"not all runs came to their end: see {directory}, and start this again",
            file=sys.stderr,
        )
        raise SystemExit(status)
    return found


def is_of(entry: LoadedRun, job: dict[str, str]) -> bool:
    """Whether a run is one of a combination."""
    words = {*entry.record.overrides}
    return {f"{key}={value}" for key, value in job.items()} <= words


def baseline(recipe: dict[str, str], choice: dict[str, str]) -> str:
    """The condition that holds for runs of the recipe, and for none of the choice."""
    key = next(key for key in choice if choice[key] != recipe[key])
    # As the command line reads the value.
    return f"{key} == {OmegaConf.from_dotlist([f'value={recipe[key]}']).value!r}"


def main() -> None:
    """Search, choose and confirm, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description="Choose among the log's recommendations.")
    parser.add_argument("directory", type=Path, help="of the sweeps, gone on with if it is there")
    parser.add_argument("--seeds", type=int, default=2, help="of each of the 12 runs (default: 2)")
    parser.add_argument("--confirmations", type=int, default=3, help="other seeds (default: 3)")
    parser.add_argument("words", nargs="*", help="overrides of all runs, such as model=resnet8v2")
    arguments = parser.parse_args()
    words = arguments.words
    if not any(word.startswith("data.holdout=") for word in words):
        words = ["data.holdout=5000", *words]
    rows = [DESIGN[number, : len(RECOMMENDATIONS)] for number in range(len(DESIGN))]
    jobs = [settings(row) for row in rows]
    found = sweep(arguments.directory / "design", jobs, [*words, f"replicates={arguments.seeds}"])
    switches, values = [], []
    for entry in found:
        if entry.state == "diverged":
            continue
        (row,) = (row for row, job in zip(rows, jobs, strict=True) if is_of(entry, job))
        switches.append(row)
        values.append(entry.record.best["val_acc"])
    if len(values) < len(RECOMMENDATIONS) + 2:
        print(
            f"{len(found) - len(values)} of {len(found)} runs diverged, so that the effects "
            "can't be told: ask for more --seeds",
            file=sys.stderr,
        )
        raise SystemExit(1)
    told = effects(np.array(switches), values)
    chosen = [each.mean > 0 for each in told]
    diverged = len(found) - len(values)
    left_out = f", without {diverged} that diverged" if diverged else ""
    print(f"{len(values)} runs, {np.mean(values):.2f}% on average{left_out}\n")
    print("| recommendation | effect, points | 95% interval | chosen |\n|---|---|---|---|")
    for each, effect, on in zip(RECOMMENDATIONS, told, chosen, strict=True):
        low, high = effect.mean - effect.margin, effect.mean + effect.margin
        print(
            f"| `{each.name}` | {effect.mean:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{'yes' if on else ''} |"
        )
    if not any(chosen):
        print("\nNone helps.")
        return
    best = settings(chosen)
    print(f"\nChosen: {' '.join(f'{key}={value}' for key, value in best.items())}\n")
    last = arguments.seeds + arguments.confirmations
    seeds = ",".join(map(str, range(arguments.seeds, last)))
    both = [settings([False] * len(RECOMMENDATIONS)), best]
    sweep(arguments.directory / "choice", both, [*words, f"seed={seeds}"])
    # What is printed here comes before what the other process prints.
    sys.stdout.flush()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "resnet_sweep",
            "runs",
            arguments.directory / "choice",
            "--baseline",
            baseline(*both),
        ],
        check=False,
    )


if __name__ == "__main__":
    main()
