"""Runs that are repeated with the same config and seed."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

from processes import clean_environment

from faults import recipes
from faults.results import difference, results
from faults.tally import Tally


def determinism(count: int, seed: int, folder: Path) -> Tally:
    """Train `count` recipes twice, in new processes with different hash seeds and folders."""
    tally = Tally("a run is repeated in a new process, with another hash seed and folder")
    names = random.Random(seed).sample(list(recipes.RECIPES), min(count, len(recipes.RECIPES)))
    for number, recipe in enumerate(names):
        runs = [folder / f"{number}" / name / "run" for name in ("one", "another folder")]
        for run, hash_seed in zip(runs, ("1", "2"), strict=True):
            run.parent.mkdir(parents=True)
            process = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "resnet_sweep",
                    *recipes.SMALL,
                    *recipes.RECIPES[recipe],
                    "hydra.run.dir=run",
                ],
                cwd=run.parent,
                env=clean_environment() | {"PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=False,
            )
        failure = process.stderr if process.returncode else difference(runs[1], results(runs[0]))
        tally.add("bit-identical results", failure and f"{recipe}: {failure}")
        shutil.rmtree(folder / f"{number}")
    return tally
