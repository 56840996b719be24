"""Run a sweep and a study on a real SLURM cluster of one node, as root. pytest doesn't run this.

apt-get update && apt-get install -y slurm-wlm slurmdbd munge mariadb-server postgresql
pip install 'resnet-sweep[slurm]' 'psycopg[binary]'
python tests/slurm_cluster.py [sweep] [study]

The script starts the daemons in a temporary folder, and stops them at the end. The cluster has a
partition for work and one whose jobs preempt it. Debian's units of SLURM don't have to run.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from small_sweep import TINY, assert_same_runs, finish, leftovers, manifest, records, start
from study_servers import make_folder, mysql, postgresql
from test_study_workers import STUDY, check_complete, load, process_at_work

from resnet_sweep.runs.metrics import read_metrics

NODE = socket.gethostname()
CPUS = 2
# A module with an augmentation that takes a second for a batch, or raises an error.
SLOW_TRANSFORM = """
import time

class Mine:
    def __init__(self, fails=False):
        self.fails, self.batches = fails, 0

    def __call__(self, images, labels, generator):
        # The validation before the run uses the first batch, and must succeed.
        self.batches += 1
        if self.fails and self.batches > 1:
            raise ValueError("this one is broken")
        time.sleep(self.batches > 1)
        return images, labels
"""
# The runs take some minutes, because SLURM's time limits are minutes.
SWEEP = (
    "--multirun",
    *TINY,
    "trainer.epochs=80",
    "seed=0,1,2,3",
    "+augmentation.mine._target_=mine.Mine",
    "+augmentation.mine.fails=false,false,false,true",
    "zip=[seed,+augmentation.mine.fails]",
)
SLURM = (
    "hydra/launcher=slurm",
    "hydra.launcher.partition=work",
    "hydra.launcher.timeout_min=20",
    "hydra.launcher.signal_delay_s=30",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
)


def configuration(folder: Path, ports: list[int], memory: int) -> str:
    """Return the `slurm.conf` of a cluster of one node, for SLURM 22.05 and later."""
    return f"""
ClusterName=one
SlurmctldHost={NODE}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
JobAcctGatherType=jobacct_gather/linux
NodeName={NODE} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={memory} State=UNKNOWN
PartitionName=work Nodes={NODE} Default=YES PriorityTier=1 GraceTime=5 State=UP
PartitionName=urgent Nodes={NODE} PriorityTier=10 PreemptMode=OFF State=UP
"""


def accounting(folder: Path, port: int, database: str) -> str:
    """Return the `slurmdbd.conf` of the cluster."""
    return f"""
AuthType=auth/munge
DbdHost=localhost
DbdPort={port}
SlurmUser=root
LogFileHandler={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=accounting
"""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """Run a SLURM cluster of one node during the `with` block."""
    for program in ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} isn't installed; see the first lines of this file")
    ports = free_ports(4)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(configuration(folder, ports, memory))
    (folder / "slurmdbd.conf").write_text(accounting(folder, ports[2], str(ports[3])))
    (folder / "slurmdbd.conf").chmod(0o600)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    make_folder(folder / "database", "mysql")
    processes: list[subprocess.Popen] = []
    log = (folder / "daemons.log").open("w")

    def daemon(*command: str) -> None:
        processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    with mysql(folder / "database", ports[3]), ending(processes):
        if output_of("munge", "--no-input") is None:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            daemon("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
        daemon("slurmdbd", "-D")
        wait_until(lambda: output_of("sacctmgr", "-n", "list", "cluster") is not None, "slurmdbd")
        if "one" not in (output_of("sacctmgr", "-n", "list", "cluster") or ""):
            subprocess.run(["sacctmgr", "-i", "add", "cluster", "one"], check=True)
        daemon("slurmctld", "-D")
        daemon("slurmd", "-D", "-N", NODE)
        wait_until(lambda: "idle" in (output_of("sinfo", "-h", "-o", "%T") or ""), "the node")
        try:
            yield
        finally:
            output_of("scancel", "--user=root", "--signal=KILL", "--full")


@contextlib.contextmanager
def ending(processes: list[subprocess.Popen]) -> Iterator[None]:
    """Terminate processes at the end of a `with` block, in reverse order."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that no process listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def output_of(*command: str) -> str | None:
    """Return the output of a command, or None if it fails."""
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None


def wait_until(condition: Callable[[], object], description: str, seconds: float = 1800) -> None:
    """Wait until a condition is true.

    Raises:
        SystemExit: it wasn't true for `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:g} s for {description}")
        time.sleep(0.1)


def job_fields(job: str) -> dict[str, str]:
    """Return SLURM's fields of a job; an unknown job has none."""
    text = output_of("scontrol", "show", "job", "-o", job) or ""
    return dict(word.partition("=")[::2] for word in text.split())


def restarts(job: str) -> int:
    """Return how many times SLURM has requeued a job."""
    return int(job_fields(job).get("Restarts", 0))


def minutes_of(job: str) -> int:
    """Return the running time of a job in minutes."""
    _, minutes, _ = job_fields(job)["RunTime"].split(":")
    return int(minutes)


def set_time_limit(job: str, minutes: int) -> None:
    """Change the time limit of a job."""
    subprocess.run(["scontrol", "update", f"job={job}", f"timelimit={minutes}"], check=True)


def epochs(run: Path) -> int:
    """Return the number of epochs that a run has finished."""
    try:
        return len(read_metrics(run))
    except FileNotFoundError:
        return 0


def resume_epochs(run: Path) -> list[int]:
    """Return the epochs at which a run was resumed, from its log."""
    lines = (run / "train.log").read_text().splitlines()
    return [int(line.split("epoch ")[1].split(",")[0]) for line in lines if "resumed at" in line]


def sweep(folder: Path) -> None:
    """Preempt a job of a sweep, let one reach its time limit, and let one fail."""
    (folder / "mine.py").write_text(SLOW_TRANSFORM)
    environment = {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "mine"}
    command = (*SWEEP, *SLURM, "hydra.sweep.dir=sweep")
    print("$ python -m resnet_sweep", shlex.join(command), flush=True)
    process = start(folder, *command, **environment)
    with ending([process]):
        runs = [folder / "sweep" / name for name in "01"]
        wait_until(lambda: min(map(epochs, runs)) > 1, "both jobs to run")
        array = (output_of("squeue", "-h", "-r", "-o", "%F") or "").split()[0]
        job_ids = [f"{array}_{number}" for number in (0, 1)]
        subprocess.run(
            ["sbatch", "--partition=urgent", "--wrap=sleep 20", "--output=/dev/null"], check=True
        )
        wait_until(lambda: any(map(restarts, job_ids)), "the preemption")
        preempted = [restarts(job) > 0 for job in job_ids].index(True)
        late = 1 - preempted
        # SLURM checks its jobs twice a minute, and sends the signal 30 s before the limit.
        set_time_limit(job_ids[late], minutes_of(job_ids[late]) + 2)
        wait_until(lambda: restarts(job_ids[late]), "the time limit")
        set_time_limit(job_ids[late], 20)
        print(finish(process, 1200))
    print(
        output_of("sacct", "-D", "-X", "-n", "-o", "jobid%12,partition,state%12,exitcode,elapsed")
    )
    finish(start(folder, *SWEEP, "hydra.sweep.dir=undisturbed", "reuse=false", **environment), 1200)
    events = {preempted: "preempted", late: "timed out", 3: "raised an error"}
    compare(folder / "sweep", folder / "undisturbed", events)


def study(folder: Path) -> None:
    """Run a study with PostgreSQL and two workers as SLURM jobs, and kill one during a trial."""
    port = free_ports(1)[0]
    (folder / "postgres").mkdir()
    directory = folder / "study"
    with postgresql(folder / "postgres", port) as url:
        command = (
            *STUDY,
            "hydra.sweeper.n_trials=12",
            "hydra.sweeper.n_jobs=2",
            f"hydra.sweeper.storage={url}",
            "hydra.sweep.dir=study",
            *SLURM,
        )
        print("$ python -m resnet_sweep", shlex.join(command), flush=True)
        process = start(folder, *command)
        with ending([process]):
            wait_until(
                lambda: len(busy_pids(directory)) == 2 or process.poll() is not None, "two trials"
            )
            assert process.poll() is None, finish(process)
            victim = busy_pids(directory)[0]
            os.kill(victim, signal.SIGKILL)
            print(f"killed the worker with process ID {victim}", flush=True)
            print(finish(process, 1200))
        assert process.returncode == 0
        for name in (".submitit", "workers"):
            shutil.rmtree(directory / name)
        check_complete(load(url), directory, 12)
    print("12 trials, one worker killed: no trial is missing, none was trained twice")


def busy_pids(directory: Path) -> list[int]:
    """Return the IDs of the processes that train trials."""
    pids = map(process_at_work, directory.glob("*/run.json"))
    return [process for process in pids if process]


def compare(sweep: Path, undisturbed: Path, events: dict[int, str]) -> None:
    """Print each job's result, and compare the finished jobs with an undisturbed sweep."""
    print(f"{'job':4} {'event':15} {'state':10} {'resumed at epoch':17} epochs")
    for job in manifest(sweep):
        name = str(job["number"])
        print(
            f"{name:4} {events.get(job['number'], ''):15} {job['state']:10} "
            f"{', '.join(map(str, resume_epochs(sweep / name))) or '-':17} {epochs(sweep / name)}"
        )
    assert [job["state"] for job in manifest(sweep)] == ["finished"] * 3 + ["failed"]
    disturbed = [number for number, event in events.items() if event != "raised an error"]
    assert all(resume_epochs(sweep / str(number)) for number in disturbed)
    for directory in (sweep, undisturbed):
        shutil.rmtree(directory / "3")
    assert len(records(sweep)) == 3
    assert_same_runs(sweep, undisturbed)
    assert not leftovers(sweep)
    print("the three finished jobs equal the jobs of an undisturbed sweep, bit for bit")


def main() -> None:
    """Start the cluster, and run the chosen parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["sweep", "study"])
    parts = {"sweep": sweep, "study": study}
    chosen = parser.parse_args().parts
    # SIGTERM must stop the daemons, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with cluster(folder):
        for part in chosen:
            part_folder = folder / part
            part_folder.mkdir()
            parts[part](part_folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
