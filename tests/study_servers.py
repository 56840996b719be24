"""Kill random workers of a study on a database server. pytest doesn't run this.

apt-get install -y postgresql mariadb-server && pip install 'psycopg[binary]' pymysql
python tests/study_servers.py postgresql [--trials 40] [--kills 6]
python tests/study_servers.py mysql

The script starts its own server (MariaDB for `mysql`) in a temporary folder, on a free port.
"""

import argparse
import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from test_study_workers import Workers, check_complete, check_resumed, kill_at_random, load


def run_as(user: str, *command: str) -> None:
    """Run a program of a database server as its user, since the servers refuse to run as root."""
    prefix = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL)


def make_folder(path: Path, user: str) -> Path:
    """Make a folder that belongs to the server's user."""
    path.mkdir()
    if os.geteuid() == 0:
        shutil.chown(path, user)
    return path


@contextlib.contextmanager
def postgresql(folder: Path, port: int) -> Iterator[str]:
    """Run a PostgreSQL server during the `with` block, and yield the URL of a database."""
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    program = programs[-1] if programs else shutil.which("pg_ctl")
    if program is None:
        raise SystemExit("PostgreSQL isn't installed; run: apt-get install -y postgresql")
    user = "postgres"
    data = make_folder(folder / "server", user)
    run_as(user, program, "initdb", "-D", str(data), "-o", f"-U {user} -A trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    run_as(user, program, "start", "-w", "-D", str(data), "-o", options, "-l", f"{data}/log")
    try:
        yield f"postgresql://{user}@127.0.0.1:{port}/{user}"
    finally:
        run_as(user, program, "stop", "-m", "fast", "-D", str(data))


@contextlib.contextmanager
def mysql(folder: Path, port: int) -> Iterator[str]:
    """Run a MariaDB server during the `with` block, and yield the URL of a database."""
    if shutil.which("mariadbd") is None:
        raise SystemExit("MariaDB isn't installed; run: apt-get install -y mariadb-server")
    user = "mysql"
    data = make_folder(folder / "server", user)
    run_as(
        user,
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    )
    init_file = data / "init.sql"
    init_file.write_text("CREATE DATABASE studies;\n")
    init_file.chmod(0o644)
    process = subprocess.Popen(
        [
            "mariadbd",
            "--no-defaults",
            f"--user={user}",
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={data}/socket",
            f"--init-file={init_file}",
            f"--log-error={data}/log",
        ]
    )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield f"mysql+pymysql://root@127.0.0.1:{port}/studies"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Run a study, and check that each of its trials exists once and is complete."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", choices=["postgresql", "mysql"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=6)
    arguments = parser.parse_args()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = {"postgresql": postgresql, "mysql": mysql}[arguments.server]
    with server(folder, port) as url:
        workers = Workers(
            folder,
            f"hydra.sweeper.n_trials={arguments.trials}",
            f"hydra.sweeper.storage={url}",
            "hydra.sweep.dir=study",
        )
        try:
            killed_trials = kill_at_random(workers, folder / "study", arguments.kills, seed=3)
            check_complete(load(url), folder / "study", arguments.trials)
            check_resumed(killed_trials)
        finally:
            workers.end()
    kills = f"{len(killed_trials)} workers killed"
    print(f"{arguments.trials} trials on {arguments.server}, {kills}: no trial is missing")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
