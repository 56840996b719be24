"""By hand, not by pytest, as root: sweeps and a study on a real SLURM of one node.

apt-get update && apt-get install -y slurm-wlm slurmdbd munge mariadb-server postgresql
pip install 'resnet-sweep[slurm]' 'psycopg[binary]'
python tests/slurm_cluster.py [sweep] [study]

Starts the daemons in a temporary folder, with a partition for work and one that preempts it, and
ends them again. Debian's own units needn't run.
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
# Of a pace that any machine keeps, or broken.
MINE = """
import time

class Mine:
    def __init__(self, fails=False):
        self.fails, self.tried = fails, 0

    def __call__(self, images, labels, generator):
        # The first batch is one that is tried before anything begins.
        self.tried += 1
        if self.fails and self.tried > 1:
            raise ValueError("this one is broken")
        time.sleep(self.tried > 1)
        return images, labels
"""
# Runs of some minutes, since SLURM counts in minutes.
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
    """The `slurm.conf` of a cluster of one node, as SLURM 22.05 and later read it."""
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
    """The `slurmdbd.conf` beside it."""
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
    """A SLURM of one node, whose commands work within the `with` block."""
    for program in ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd"):
        if shutil.which(program) is None:
            raise SystemExit(f"there is no {program}: see the head of this file")
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

    def daemon(*words: str) -> None:
        processes.append(subprocess.Popen(words, stdout=log, stderr=log))

    with mysql(folder / "database", ports[3]), ending(processes):
        if told("munge", "--no-input") is None:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            daemon("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
        daemon("slurmdbd", "-D")
        until(lambda: told("sacctmgr", "-n", "list", "cluster") is not None, "slurmdbd")
        if "one" not in (told("sacctmgr", "-n", "list", "cluster") or ""):
            subprocess.run(["sacctmgr", "-i", "add", "cluster", "one"], check=True)
        daemon("slurmctld", "-D")
        daemon("slurmd", "-D", "-N", NODE)
        until(lambda: "idle" in (told("sinfo", "-h", "-o", "%T") or ""), "the node")
        try:
            yield
        finally:
            told("scancel", "--user=root", "--signal=KILL", "--full")


@contextlib.contextmanager
def ending(processes: list[subprocess.Popen]) -> Iterator[None]:
    """End processes behind a `with` block, the last first."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def told(*words: str) -> str | None:
    """What a program prints; None if it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def until(condition: Callable[[], object], what: str, seconds: float = 1800) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.1)


def facts(job: str) -> dict[str, str]:
    """What SLURM knows of a job; nothing if it knows none of that name."""
    text = told("scontrol", "show", "job", "-o", job) or ""
    return dict(word.partition("=")[::2] for word in text.split())


def restarts(job: str) -> int:
    """How often SLURM queued a job again."""
    return int(facts(job).get("Restarts", 0))


def minutes_of(job: str) -> int:
    """How long a job has run."""
    _, minutes, _ = facts(job)["RunTime"].split(":")
    return int(minutes)


def limit(job: str, minutes: int) -> None:
    """Change the time that a job is allowed."""
    subprocess.run(["scontrol", "update", f"job={job}", f"timelimit={minutes}"], check=True)


def epochs(run: Path) -> int:
    """How many epochs a run has behind it."""
    try:
        return len(read_metrics(run))
    except FileNotFoundError:
        return 0


def went_on(run: Path) -> list[int]:
    """The epochs at which a run went on, by its log."""
    lines = (run / "train.log").read_text().splitlines()
    return [int(line.split("epoch ")[1].split(",")[0]) for line in lines if "going on at" in line]


def sweep(folder: Path) -> None:
    """A job is preempted, one comes to the end of its time, one breaks down: the rest is calm."""
    (folder / "mine.py").write_text(MINE)
    environment = {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "mine"}
    command = (*SWEEP, *SLURM, "hydra.sweep.dir=sweep")
    print("$ python -m resnet_sweep", shlex.join(command), flush=True)
    process = start(folder, *command, **environment)
    with ending([process]):
        runs = [folder / "sweep" / each for each in "01"]
        until(lambda: min(map(epochs, runs)) > 1, "both jobs to run")
        array = (told("squeue", "-h", "-r", "-o", "%F") or "").split()[0]
        first = [f"{array}_{number}" for number in (0, 1)]
        subprocess.run(
            ["sbatch", "--partition=urgent", "--wrap=sleep 20", "--output=/dev/null"], check=True
        )
        until(lambda: any(map(restarts, first)), "the preemption")
        preempted = [restarts(job) > 0 for job in first].index(True)
        late = 1 - preempted
        # Time enough for the warning: SLURM looks at its jobs twice a minute.
        limit(first[late], minutes_of(first[late]) + 2)
        until(lambda: restarts(first[late]), "the end of its time")
        limit(first[late], 20)
        print(finish(process, 1200))
    print(told("sacct", "-D", "-X", "-n", "-o", "jobid%12,partition,state%12,exitcode,elapsed"))
    finish(start(folder, *SWEEP, "hydra.sweep.dir=calm", "reuse=false", **environment), 1200)
    fates = {preempted: "preempted", late: "timed out", 3: "broken"}
    compare(folder / "sweep", folder / "calm", fates)


def study(folder: Path) -> None:
    """Workers of one study as jobs of SLURM, with PostgreSQL; one is killed in a trial."""
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
            until(lambda: len(at_work(directory)) == 2 or process.poll() is not None, "two trials")
            assert process.poll() is None, finish(process)
            victim = at_work(directory)[0]
            os.kill(victim, signal.SIGKILL)
            print(f"the worker with process {victim} is killed", flush=True)
            print(finish(process, 1200))
        assert process.returncode == 0
        for place in (".submitit", "workers"):
            shutil.rmtree(directory / place)
        check_complete(load(url), directory, 12)
    print("12 trials, one worker killed: none lost, none trained twice")


def at_work(directory: Path) -> list[int]:
    """The processes that are at work on trials."""
    found = map(process_at_work, directory.glob("*/run.json"))
    return [process for process in found if process]


def compare(sweep: Path, calm: Path, fates: dict[int, str]) -> None:
    """Print what came of each job, and hold the finished ones against undisturbed ones."""
    print(f"{'job':4} {'what happened':14} {'state':10} {'went on at epoch':17} epochs")
    for job in manifest(sweep):
        name = str(job["number"])
        print(
            f"{name:4} {fates.get(job['number'], ''):14} {job['state']:10} "
            f"{', '.join(map(str, went_on(sweep / name))) or '-':17} {epochs(sweep / name)}"
        )
    assert [job["state"] for job in manifest(sweep)] == ["finished"] * 3 + ["failed"]
    disturbed = [number for number, fate in fates.items() if fate != "broken"]
    assert all(went_on(sweep / str(number)) for number in disturbed)
    for each in (sweep, calm):
        shutil.rmtree(each / "3")
    assert len(records(sweep)) == 3
    assert_same_runs(sweep, calm)
    assert not leftovers(sweep)
    print("the three that finished are those of an undisturbed sweep, bit for bit")


def main() -> None:
    """Start the cluster, and carry out what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["sweep", "study"])
    parts = {"sweep": sweep, "study": study}
    chosen = parser.parse_args().parts
    # The daemons are to be ended in any case.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with cluster(folder):
        for part in chosen:
            place = folder / part
            place.mkdir()
            parts[part](place)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
