"""A Python that has imported torch, Accelerate, timm and this package once, and forks a process for every command.

``python forkserver.py FD``: carries out requests of the socket FD (tests/forked.py), one JSON line each, answers with
the process's number, and writes its exit code into a file when it ends. It never computes anything and has no thread of
its own, so that what it forks is as fresh as a Python just started, but for its imports, which take 5 of the 6 seconds
that a small run has.
"""

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

IMPORTS = (
    "torch", "accelerate", "timm", "torch.distributed.fsdp", "torch.utils.tensorboard", "sklearn.metrics",
    "pyarrow.dataset", "dira_scale.pretrain", "dira_scale.pretrain.task", "dira_scale.train.engine.run",
    "dira_scale.shard", "dira_scale.export",
)  # fmt: skip
OF_ZERO = ("deepspeed", "transformers", "torch._inductor.codecache", "setuptools", "networkx")


def serve(requests: socket.socket) -> None:
    """Fork until the other end of the socket is closed."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    answers, stream, outputs = requests.makefile("w"), requests.makefile("r"), dict[int, str]()
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                _write_code(outputs.pop(ended[0]), *ended)
        if requests in ready:
            if not (line := stream.readline()):
                return
            request = json.loads(line)
            if (pid := os.fork()) == 0:
                os.close(requests.fileno())  # its end is to be seen even while this process lives
                _become(request)
            outputs[pid] = request["output"]
            print(pid, file=answers, flush=True)


def _write_code(output: str, pid: int, status: int) -> None:
    with suppress(FileNotFoundError):  # pytest has ended, and its files are gone
        Path(f"{output}.{pid}").write_text(str(os.waitstatus_to_exitcode(status)))


def _become(request: dict[str, Any]) -> NoReturn:
    """The process that was asked for: its session, signals, environment, output and program; ends as Python does."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(here, there)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    code, signalled = 1, False
    random.seed()
    try:
        _run(request["words"], request["before"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signalled = True
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    try:
        atexit._run_exitfuncs()
    except BaseException:  # Python prints it and ends with the code that it had
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    if signalled:  # Ctrl-C ends a Python by the signal
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def _run(words: list[str], before: str) -> None:
    """What ``python WORDS`` does; ``before`` is run first."""
    import numpy as np
    import torch

    np.random.seed()
    if threads := os.environ.get("OMP_NUM_THREADS"):  # read by the library when it was loaded
        torch.set_num_threads(int(threads))
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    importlib.invalidate_caches()
    exec(before, {"__name__": "before"})
    match words:
        case ["-m", module, *arguments]:
            sys.path.insert(0, str(Path.cwd()))
            sys.argv = [module, *arguments]
            for name in (module, f"{module}.__main__"):
                sys.modules.pop(name, None)  # it is run, not imported
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.path.insert(0, "")
            sys.argv = ["-c", *arguments]
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(code, "<string>", "exec"), main.__dict__)
        case [file, *arguments]:
            sys.path.insert(0, os.path.dirname(file))  # noqa: PTH120
            sys.argv = [file, *arguments]
            runpy.run_path(file, run_name="__main__")
        case _:
            raise ValueError(f"python without a program: {words}")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requested:
        for module in IMPORTS:
            importlib.import_module(module)
        with suppress(ImportError):
            for module in OF_ZERO:
                importlib.import_module(module)
        from shared_bases import composed

        from dira_scale.base.config import compose
        from dira_scale.train.distributed import processes

        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        processes.idle_cores = lambda share: max(1, share // workers)  # which are watched for 0.3 s at each start
        compose._hydra = composed  # what a tiny run composes, which takes a quarter of a second
        compose.compose("pretrain", ["experiment=small", "precision=fp32", "data.shards=any"])
        gc.collect()
        gc.freeze()  # nothing of it is looked at again: pages stay shared
        serve(requested)
