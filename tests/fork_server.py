"""A server that starts Python programs by forking, so that they need not import torch again.

The server imports the libraries that the program uses, but nothing of the program itself, and then
forks a child for each request. A child is a process of its own: it has its own working directory,
environment, standard streams, signal handlers and exit status, and it imports the program anew.

    python tests/fork_server.py SOCKET

SOCKET is the number of an inherited Unix socket. A request is a line of JSON with the keys
`module`, `arguments`, `folder`, `environment` and `new_session`, together with four descriptors:
standard input, output and error, and a pipe. The server writes the child's process number to the
pipe, and its exit status when it has ended.
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

# All that a run, a sweep and the tables import from elsewhere. Nothing is computed before the
# fork, because the threads of torch don't survive it.
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
# A request is one packet, of this size at the most.
PACKET = 2**17
STREAMS = 3


def serve(requests: socket.socket) -> dict | None:
    """Fork a child for each request until the other side closes the socket.

    Returns:
        The request, in the child that is to run it; None in the server, at its end.
    """
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    pipes: dict[int, int] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is woken:
                woken.recv(PACKET)
                continue
            packet, descriptors, _, _ = socket.recv_fds(requests, PACKET, STREAMS + 1)
            if not packet:
                # The tests are gone, so the children are of no use any more.
                for process in pipes:
                    os.kill(process, signal.SIGKILL)
                return None
            request = json.loads(packet)
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for end in (requests, woken, wake):
                    end.close()
                for pipe in (*pipes.values(), descriptors[STREAMS]):
                    os.close(pipe)
                return request | {"streams": descriptors[:STREAMS]}
            for descriptor in descriptors[:STREAMS]:
                os.close(descriptor)
            pipes[process] = descriptors[STREAMS]
            report(pipes[process], process)
        while pipes:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            pipe = pipes.pop(ended)
            report(pipe, os.waitstatus_to_exitcode(status))
            os.close(pipe)


def report(pipe: int, number: int) -> None:
    """Write a number to a pipe, unless its reader is gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, f"{number}\n".encode())


def become(request: dict) -> None:
    """Make this process what `python -m MODULE` is when its module is about to run."""
    if request["new_session"]:
        os.setsid()
    for target, descriptor in enumerate(request["streams"]):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # They stay open until the process ends.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    # The first entry is the folder of this file, which `python -m` has the working directory for.
    paths = request["environment"].get("PYTHONPATH", "")
    sys.path[:1] = [os.getcwd(), *filter(None, paths.split(os.pathsep))]
    importlib.invalidate_caches()
    sys.argv = [request["module"], *request["arguments"]]


def run(module: str) -> int:
    """Run a module as `python -m` does; returns the exit status."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(status: int) -> None:
    """End this process as an interpreter ends, without freeing what the server has imported."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    os._exit(status & 0xFF)


def preload() -> None:
    """Import the libraries, but for those of extras that aren't installed."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


if __name__ == "__main__":
    preload()
    # The collector leaves alone what was imported, so that children share its memory.
    gc.collect()
    gc.freeze()
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is None:
        os._exit(0)
    become(asked)
    end(run(asked["module"]))
