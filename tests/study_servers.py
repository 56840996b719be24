"""By hand, not by pytest: workers of a study on a database server are killed at random.

apt-get install -y postgresql mariadb-server && pip install 'psycopg[binary]' pymysql
python tests/study_servers.py postgresql [--trials 40] [--kills 6]
python tests/study_servers.py mysql

Starts a server of its own (for MySQL, MariaDB's) in a temporary folder, on a free port.
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


def run_as(user: str, *words: str) -> None:
    """Run a program of a server's, which won't be root."""
    prefix = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *words], check=True, stdout=subprocess.DEVNULL)


def make_folder(path: Path, user: str) -> Path:
    """A folder of the server's."""
    path.mkdir()
    if os.geteuid() == 0:
        shutil.chown(path, user)
    return path


@contextlib.contextmanager
def postgresql(folder: Path, port: int) -> Iterator[str]:
    """A PostgreSQL server; gives the URL of a database."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    program = found[-1] if found else shutil.which("pg_ctl")
    if program is None:
        raise SystemExit("there is no PostgreSQL: apt-get install -y postgresql")
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
    """A MariaDB server; gives the URL of a database."""
    if shutil.which("mariadbd") is None:
        raise SystemExit("there is no MariaDB: apt-get install -y mariadb-server")
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
    setting_up = data / "init.sql"
    setting_up.write_text("CREATE DATABASE studies;\n")
    setting_up.chmod(0o644)
    process = subprocess.Popen(
        [
            "mariadbd",
            "--no-defaults",
            f"--user={user}",
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={data}/socket",
            f"--init-file={setting_up}",
            f"--log-error={data}/log",
        ]
    )
    try:
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        yield f"mysql+pymysql://root@127.0.0.1:{port}/studies"
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Carry a study out, and check that none of its trials was lost or is there twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", choices=["postgresql", "mysql"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=6)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
            left = kill_at_random(workers, folder / "study", arguments.kills, seed=3)
            check_complete(load(url), folder / "study", arguments.trials)
            check_resumed(left)
        finally:
            workers.end()
    print(f"{arguments.trials} trials on {arguments.server}, {len(left)} workers killed: none lost")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
