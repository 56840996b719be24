"""The same config and seed, in processes of their own."""

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
    """Train so many recipes twice, in fresh processes with other hash seeds and folders."""
    tally = Tally("a run is repeated in a fresh process, with another hash seed and folder")
    names = random.Random(seed).sample(list(recipes.RECIPES), min(count, len(recipes.RECIPES)))
    for number, name in enumerate(names):
        places = [folder / f"{number}" / kind / "run" for kind in ("one", "other folder")]
        for place, hash_seed in zip(places, ("1", "2"), strict=True):
            place.parent.mkdir(parents=True)
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "resnet_sweep",
                    *recipes.SMALL,
                    *recipes.RECIPES[name],
                    "hydra.run.dir=run",
                ],
                cwd=place.parent,
                env=clean_environment() | {"PYTHONHASHSEED": hash_seed},
                capture_output=True,
                text=True,
                check=False,
            )
        wrong = done.stderr if done.returncode else difference(places[1], results(places[0]))
        tally.add("the same bits", wrong and f"{name}: {wrong}")
        shutil.rmtree(folder / f"{number}")
    return tally
