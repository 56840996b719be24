"""Choose among the training log's recommendations with a screening design.

python -m benchmarks.best_recipe DIRECTORY [--seeds 2] [OVERRIDE...]
python -m benchmarks.best_recipe multirun/best_recipe model=resnet8v2 data.limit_train=5000

A sweep trains the 12 combinations of a Plackett-Burman design (1946) for each seed. In the design,
each recommendation is on in half of the combinations. Its effect is the difference between the runs
with it and the runs without it, so each effect is estimated from all runs. All recommendations with
a positive effect are chosen, even if the interval includes zero. A second sweep, with other seeds,
compares the choice with the log's recipe. Accuracies are measured on held-out training images.
The same command resumes after an interruption.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import OmegaConf
from scipy import stats

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.markdown import table_header, table_row
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.runs.record import ENDED
from resnet_sweep.sweeps.manifest import Manifest

# 12 runs by 11 factors: the cyclic shifts of the first row, and a last row with all factors off.
_FIRST_ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
DESIGN = np.array([*(np.roll(_FIRST_ROW, shift) for shift in range(11)), np.zeros(11)], dtype=bool)

AUGMENTATION = "augmentation"


class Recommendation(NamedTuple):
    """A change to the recipe.

    Attributes:
        name: of the experiment in conf/.
        key: setting or config group that it changes.
        off, on: values of the key, as a run records them.
    """

    name: str
    key: str
    off: str
    on: str


# At most 11. Recommendations that change the cost or the length of a run aren't included.
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
    """The estimated effect of a factor.

    Attributes:
        mean: in the unit of the values; percentage points of validation accuracy.
        margin: half of the 95% confidence interval.
    """

    mean: float
    margin: float


def settings(chosen: Sequence[bool]) -> dict[str, str]:
    """Return the value of each key for a combination of recommendations.

    Args:
        chosen: whether each recommendation is on, in the order of RECOMMENDATIONS.
    """
    values: dict[str, str] = {}
    augmentations = []
    for recommendation, on in zip(RECOMMENDATIONS, chosen, strict=True):
        if recommendation.key == AUGMENTATION:
            augmentations += [recommendation.on] if on else []
        else:
            values[recommendation.key] = recommendation.on if on else recommendation.off
    # Both mix images, so `cutmix_mixup` chooses one at random, as in Touvron et al. (2021).
    if {"cutmix", "mixup"} <= {*augmentations}:
        augmentations = [name for name in augmentations if name not in ("cutmix", "mixup")]
        augmentations.append("cutmix_mixup")
    values[AUGMENTATION] = f"[{','.join(augmentations)}]" if augmentations else "standard"
    return values


def effects(switches: np.ndarray, values: Sequence[float]) -> list[Effect]:
    """Estimate main effects by least squares, with 95% intervals from Student's t distribution.

    Args:
        switches: (runs, factors), whether a factor is on in a run.
        values: (runs,), the results of the runs.
    """
    matrix = np.column_stack([np.ones(len(values)), switches.astype(float)])
    solution, *_ = np.linalg.lstsq(matrix, np.asarray(values), rcond=None)
    degrees_of_freedom = len(values) - matrix.shape[1]
    residuals = np.asarray(values) - matrix @ solution
    covariance = np.linalg.inv(matrix.T @ matrix) * (residuals @ residuals / degrees_of_freedom)
    margins = stats.t.ppf(0.975, degrees_of_freedom) * np.sqrt(np.diag(covariance))
    return [Effect(mean, margin) for mean, margin in zip(solution[1:], margins[1:], strict=True)]


def run_sweep(
    directory: Path, jobs: Sequence[dict[str, str]], overrides: Sequence[str]
) -> list[LoadedRun]:
    """Train combinations of settings, and return all runs, including diverged runs.

    Raises:
        SystemExit: some runs haven't ended.
    """
    keys = list(jobs[0])
    values = [f"{key}={','.join(job[key] for job in jobs)}" for key in keys]
    options = ["hydra/launcher=pool", "logger=csv", "reuse=false", *overrides]
    command = [sys.executable, "-m", "resnet_sweep", "--multirun", *values]
    command += [f"zip=[{','.join(keys)}]", f"hydra.sweep.dir={directory}", *options]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    process = subprocess.Popen(command, stdout=sys.stderr)
    # The sweep saves its runs on SIGTERM, so it receives the signal and this process waits.
    handler = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    status = process.wait()
    signal.signal(signal.SIGTERM, handler)
    runs = [
        load_run(directory / job.directory, f"{job.number}")
        for job in Manifest.read(directory).jobs
    ]
    # A sweep with diverged runs exits with 1, but all of its runs have ended.
    if status != 0 and not (status == 1 and all(run.state in ENDED for run in runs)):
        print(
            f"some runs in {directory} haven't ended: run the same command again", file=sys.stderr
        )
        raise SystemExit(status)
    return runs


def has_settings(run: LoadedRun, settings: dict[str, str]) -> bool:
    """Return whether the overrides of a run contain these settings."""
    return {f"{key}={value}" for key, value in settings.items()} <= {*run.record.overrides}


def baseline_filter(recipe: dict[str, str], choice: dict[str, str]) -> str:
    """Return a filter expression that matches runs of the recipe, and no runs of the choice."""
    key = next(key for key in choice if choice[key] != recipe[key])
    # The expression compares with the type that the command line gives to the value.
    return f"{key} == {OmegaConf.from_dotlist([f'value={recipe[key]}']).value!r}"


def measure_effects(directory: Path, seeds: int, overrides: Sequence[str]) -> list[Effect]:
    """Train the design, print a summary of its runs, and return the effects.

    The effects are in the order of RECOMMENDATIONS.

    Raises:
        SystemExit: too many runs diverged.
    """
    rows = DESIGN[:, : len(RECOMMENDATIONS)]
    jobs = [settings(row) for row in rows]
    runs = run_sweep(directory, jobs, [*overrides, f"replicates={seeds}"])
    switches, accuracies = [], []
    for run in runs:
        if run.state == "diverged":
            continue
        (row,) = (row for row, job in zip(rows, jobs, strict=True) if has_settings(run, job))
        switches.append(row)
        accuracies.append(run.record.best["val_acc"])
    diverged = len(runs) - len(accuracies)
    if len(accuracies) < len(RECOMMENDATIONS) + 2:
        print(
            f"cannot estimate the effects, because {diverged} of {len(runs)} runs diverged: "
            "increase --seeds",
            file=sys.stderr,
        )
        raise SystemExit(1)
    excluded = f", without {diverged} diverged" if diverged else ""
    print(f"{len(accuracies)} runs{excluded}, mean accuracy {np.mean(accuracies):.2f}%\n")
    return effects(np.array(switches), accuracies)


def main() -> None:
    """Train the design, choose, compare the choice with the recipe, and print tables."""
    parser = make_parser("best_recipe", __doc__)
    parser.add_argument("directory", type=Path, help="directory of the sweeps")
    parser.add_argument("--seeds", type=int, default=2, help="seeds in the design (default: 2)")
    parser.add_argument(
        "--confirmations",
        type=int,
        default=3,
        help="other seeds that compare the choice with the recipe (default: 3)",
    )
    add_overrides(parser)
    arguments = parser.parse_intermixed_args()
    overrides = arguments.overrides
    if not any(override.startswith("data.holdout=") for override in overrides):
        overrides = ["data.holdout=5000", *overrides]
    estimates = measure_effects(arguments.directory / "design", arguments.seeds, overrides)
    chosen = [effect.mean > 0 for effect in estimates]
    print(table_header("recommendation", "effect, points", "95% interval", "chosen"))
    for recommendation, effect, on in zip(RECOMMENDATIONS, estimates, chosen, strict=True):
        low, high = effect.mean - effect.margin, effect.mean + effect.margin
        interval = f"{low:+.2f} to {high:+.2f}"
        name = f"`{recommendation.name}`"
        print(table_row(name, f"{effect.mean:+.2f}", interval, "yes" if on else ""))
    if not any(chosen):
        print("\nNo recommendation has a positive effect.")
        return
    recipe, choice = settings([False] * len(RECOMMENDATIONS)), settings(chosen)
    print(f"\nChosen: {' '.join(f'{key}={value}' for key, value in choice.items())}\n")
    last = arguments.seeds + arguments.confirmations
    seeds = f"seed={','.join(map(str, range(arguments.seeds, last)))}"
    directory = arguments.directory / "choice"
    run_sweep(directory, [recipe, choice], [*overrides, seeds])
    # The subprocess writes to the same stdout, so the buffer is flushed first.
    sys.stdout.flush()
    command = [sys.executable, "-m", "resnet_sweep", "runs", directory]
    subprocess.run([*command, "--baseline", baseline_filter(recipe, choice)], check=False)


if __name__ == "__main__":
    main()
