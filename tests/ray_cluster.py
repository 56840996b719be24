"""By hand, not by pytest: a sweep on a Ray cluster of two nodes, the second of which is killed.

pip install 'resnet-sweep[ray]'
python tests/ray_cluster.py

Both nodes are on this machine, each with room for one job.
"""

import shlex
import shutil
import tempfile
from pathlib import Path

from ray.cluster_utils import Cluster
from slurm_cluster import MINE, SWEEP, compare, epochs, until
from small_sweep import finish, records, start


def main() -> None:
    """Carry a sweep out, lose a node, and hold what came of it against an undisturbed sweep."""
    folder = Path(tempfile.mkdtemp())
    (folder / "mine.py").write_text(MINE)
    environment = {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "mine"}
    # Of the nodes' processes as well.
    node = {"num_cpus": 1, "env_vars": environment, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second = cluster.add_node(**node)
    cluster.wait_for_nodes()
    command = (
        *SWEEP,
        "hydra/launcher=ray",
        f"hydra.launcher.address={cluster.address}",
        "hydra.sweep.dir=sweep",
    )
    print("$ python -m resnet_sweep", shlex.join(command), flush=True)
    process = start(folder, *command, **environment)
    try:
        runs = [folder / "sweep" / each for each in "01"]
        until(lambda: min(map(epochs, runs)) > 1, "both jobs to run")
        before = {run.name: records(folder / "sweep")[run.name]["heartbeat"] for run in runs}
        cluster.remove_node(second, allow_graceful=False)
        print(f"the second node is killed at epochs {[epochs(run) for run in runs]}", flush=True)
        until(lambda: moved(folder, before), "the job of the second node to go on")
        print(finish(process, 1200))
    finally:
        process.kill()
        cluster.shutdown()
    finish(start(folder, *SWEEP, "hydra.sweep.dir=calm", "reuse=false", **environment), 1200)
    (lost,) = [int(run.name) for run in runs if "going on at" in (run / "train.log").read_text()]
    compare(folder / "sweep", folder / "calm", {lost: "node killed", 3: "broken"})
    shutil.rmtree(folder)


def moved(folder: Path, before: dict[str, dict]) -> bool:
    """Whether a run is another process's than before, or at its end."""
    now = records(folder / "sweep")
    return any(
        now[name]["heartbeat"] and now[name]["heartbeat"]["process"] != heartbeat["process"]
        for name, heartbeat in before.items()
    )


if __name__ == "__main__":
    main()
