"""Start Python programs by forking a process that has already imported torch.

The server imports the libraries that the program uses, but not the program itself, and forks a
child for each request. A child has its own working directory, environment, standard streams, signal
handlers and exit status, and it imports the program anew.

    python tests/fork_server.py SOCKET

SOCKET is the file descriptor of an inherited Unix socket. A request is a JSON object with the keys
`module`, `arguments`, `folder`, `environment` and `new_session`, sent together with four file
descriptors: standard input, output and error, and a pipe. The server writes the child's process ID
to the pipe when the child starts, and its exit status when the child ends.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading

# The third-party modules that runs, sweeps and tables import. The server computes nothing with
# them, because torch's threads don't survive a fork.
PRELOADED = (
    "alembic.command",
    "csv",
    "hydra.experimental.callback",
    "hydra._internal.hydra",
    "hydra._internal.core_plugins.bash_completion",
    "hydra._internal.core_plugins.basic_launcher",
    "hydra._internal.core_plugins.basic_sweeper",
    "hydra._internal.core_plugins.fish_completion",
    "hydra._internal.core_plugins.file_config_source",
    "hydra._internal.core_plugins.importlib_resources_config_source",
    "hydra._internal.core_plugins.structured_config_source",
    "hydra._internal.core_plugins.zsh_completion",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
    "multiprocessing.connection",
    "optuna.importance",
    "optuna.storages._rdb.models",
    "optuna.visualization.matplotlib",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "rich._emoji_codes",
    "rich.progress",
    "rich.table",
    "scipy.stats",
    "sklearn.datasets.data",
    "sklearn.datasets.descr",
    "sqlalchemy.dialects.sqlite",
    "tensorboard.plugins.hparams.api_pb2",
    "torch._dynamo",
    "torch.distributed",
    "torch.optim",
    "torch.utils.serialization.config",
    "torch.utils.tensorboard",
    "torchvision.models",
)
# The largest size of a request in bytes. A request is one packet.
PACKET = 2**17
STREAMS = 3


def serve(requests: socket.socket) -> dict | None:
    """Fork a child for each request until the other side closes the socket.

    Returns:
        The request in the child process; None in the server, when the socket is closed.
    """
    wakeup_reader, wakeup_writer = socket.socketpair()
    for end in (wakeup_reader, wakeup_writer):
        end.setblocking(False)
    signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(wakeup_reader, selectors.EVENT_READ)
    pipes: dict[int, int] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is wakeup_reader:
                wakeup_reader.recv(PACKET)
                continue
            packet, descriptors, _, _ = socket.recv_fds(requests, PACKET, STREAMS + 1)
            if not packet:
                # The test process has ended, so nothing needs the children any more.
                for child_pid in pipes:
                    os.kill(child_pid, signal.SIGKILL)
                return None
            request = json.loads(packet)
            child_pid = os.fork()
            if child_pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for end in (requests, wakeup_reader, wakeup_writer):
                    end.close()
                for pipe in (*pipes.values(), descriptors[STREAMS]):
                    os.close(pipe)
                return request | {"streams": descriptors[:STREAMS]}
            for descriptor in descriptors[:STREAMS]:
                os.close(descriptor)
            pipes[child_pid] = descriptors[STREAMS]
            report(pipes[child_pid], child_pid)
        while pipes:
            ended_pid, status = os.waitpid(-1, os.WNOHANG)
            if not ended_pid:
                break
            pipe = pipes.pop(ended_pid)
            report(pipe, os.waitstatus_to_exitcode(status))
            os.close(pipe)


def report(pipe: int, number: int) -> None:
    """Write a number to a pipe, and ignore a pipe that its reader has closed."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, f"{number}\n".encode())


def set_up_child(request: dict) -> None:
    """Give this process the state that `python -m MODULE` has when it starts to run the module."""
    if request["new_session"]:
        os.setsid()
    for target, descriptor in enumerate(request["streams"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # The streams stay open until the process ends, so no `with` block closes them.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    # The server has the folder of this file as the first entry, `python -m` the working directory.
    paths = request["environment"].get("PYTHONPATH", "")
    sys.path[:1] = [os.getcwd(), *filter(None, paths.split(os.pathsep))]
    importlib.invalidate_caches()
    sys.argv = [request["module"], *request["arguments"]]


def run(module: str) -> int:
    """Run a module as `python -m` does, and return the exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as system_exit:
        if system_exit.code is None or isinstance(system_exit.code, int):
            return system_exit.code or 0
        print(system_exit.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(status: int) -> None:
    """Exit as an interpreter does, but without freeing the modules that the server imported."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    os._exit(status & 0xFF)


def preload() -> None:
    """Import the libraries that are installed; some belong to optional extras."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    preload()
    # The garbage collector ignores frozen objects, so the children share their memory pages.
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        os._exit(0)
    set_up_child(request)
    end(run(request["module"]))
