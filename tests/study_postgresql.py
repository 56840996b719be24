"""By hand, not by pytest: workers of a study on a PostgreSQL server are killed at random.

apt-get install -y postgresql && pip install 'psycopg[binary]'
python tests/study_postgresql.py [--trials 40] [--kills 6]

Starts a server of its own in a temporary folder, on a free port of this machine.
"""

import argparse
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from test_study_workers import Workers, check_complete, kill_at_random, load

USER = "postgres"


def run_as_server(*words: str) -> None:
    """Run a program of the server's, which won't be root."""
    prefix = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Carry a study out, and see that none of its trials was lost or is there twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=6)
    arguments = parser.parse_args()
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    program = found[-1] if found else shutil.which("pg_ctl")
    if program is None:
        raise SystemExit("there is no PostgreSQL: apt-get install -y postgresql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    data = folder / "server"
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, USER)
    run_as_server(program, "initdb", "-D", str(data), "-o", f"-U {USER} -A trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    run_as_server(program, "start", "-w", "-D", str(data), "-o", options, "-l", f"{data}/log")
    url = f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
    workers = Workers(
        folder, f"hydra.sweeper.n_trials={arguments.trials}", f"hydra.sweeper.storage={url}",
        "hydra.sweep.dir=study",
    )  # fmt: skip
    try:
        killed = kill_at_random(workers, folder / "study", arguments.kills, seed=3)
        check_complete(load(url), folder / "study", arguments.trials)
        print(f"{arguments.trials} trials on PostgreSQL, {killed} workers killed: none lost")
    finally:
        workers.end()
        run_as_server(program, "stop", "-m", "fast", "-D", str(data))
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
