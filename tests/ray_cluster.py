"""Run a sweep on a Ray cluster of two nodes, and kill the second node. pytest doesn't run this.

pip install 'resnet-sweep[ray]'
python tests/ray_cluster.py

Both nodes are on this machine, and each runs one job at a time.
"""

import shlex
import shutil
import tempfile
from pathlib import Path

from ray.cluster_utils import Cluster
from slurm_cluster import SLOW_TRANSFORM, SWEEP, compare, epochs, wait_until
from small_sweep import finish, records, start


def main() -> None:
    """Kill a node during a sweep, and compare its runs with the runs of an undisturbed sweep."""
    folder = Path(tempfile.mkdtemp())
    (folder / "mine.py").write_text(SLOW_TRANSFORM)
    environment = {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "mine"}
    # The processes of the nodes need the variables, too.
    node = {"num_cpus": 1, "env_vars": environment, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    second_node = cluster.add_node(**node)
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
        runs = [folder / "sweep" / name for name in "01"]
        wait_until(lambda: min(map(epochs, runs)) > 1, "both jobs to run")
        heartbeats = {run.name: records(folder / "sweep")[run.name]["heartbeat"] for run in runs}
        cluster.remove_node(second_node, allow_graceful=False)
        print(f"killed the second node at epochs {[epochs(run) for run in runs]}", flush=True)
        wait_until(
            lambda: has_new_process(folder, heartbeats), "the job of the second node to be resumed"
        )
        print(finish(process, 1200))
    finally:
        process.kill()
        cluster.shutdown()
    finish(start(folder, *SWEEP, "hydra.sweep.dir=undisturbed", "reuse=false", **environment), 1200)
    (resumed,) = [int(run.name) for run in runs if "resumed at" in (run / "train.log").read_text()]
    compare(
        folder / "sweep", folder / "undisturbed", {resumed: "node killed", 3: "raised an error"}
    )
    shutil.rmtree(folder)


def has_new_process(folder: Path, heartbeats: dict[str, dict]) -> bool:
    """Return whether a run has a new heartbeat, from another process."""
    current = records(folder / "sweep")
    return any(
        current[name]["heartbeat"] and current[name]["heartbeat"]["process"] != heartbeat["process"]
        for name, heartbeat in heartbeats.items()
    )


if __name__ == "__main__":
    main()
