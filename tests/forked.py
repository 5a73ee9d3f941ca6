"""Commands carried out by processes that a warm Python forks (tests/forkserver.py) instead of by Pythons that start.

:class:`Forked` is to a test what ``subprocess.Popen`` is. What is about starting itself (launchers, threads, what a
user types) starts afresh.
"""

import atexit
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bounded import end

ENVIRONMENT = dict(os.environ)  # of the server, before any test changes it; each process has that of its request
STARTING = 300.0  # seconds for the server's imports, on a busy machine
_ports = itertools.count()


class Server:
    """One for this process of pytest, started when it is first needed."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, str(Path(__file__).with_name("forkserver.py")), str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True, env=ENVIRONMENT)
        theirs.close()
        ours.settimeout(STARTING)
        self.requests, self.answers = ours.makefile("w"), ours.makefile("r")
        self.outputs = tempfile.TemporaryDirectory(prefix="forked-")
        atexit.register(ours.shutdown, socket.SHUT_RDWR)

    def fork(self, **request: Any) -> int:
        """The pid of a process that carries out ``request``."""
        print(json.dumps(request), file=self.requests, flush=True)
        answer = self.answers.readline()
        assert answer, "the fork server has ended: see its errors"
        return int(answer)


_servers: list[Server] = []


def server() -> Server:
    """This process's."""
    if not _servers or _servers[0].process.poll() is not None:
        _servers[:] = [Server()]
    return _servers[0]


class Forked:
    """A command of ``sys.executable``, or of torchrun on this machine alone, whose ranks it then is.

    ``pid`` is the first rank's; signals go to all; the exit code is the first that is not 0. Output of all goes to one
    file, ``output``, beside which the server writes their exit codes.

    Args:
        before: Python that every process runs first: shorter waits, say.
    """

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str], before: str = "") -> None:
        words, ranks = forkable(command) or ([], 0)
        assert ranks, f"only Python can be forked: {command}"
        self.server, self.pids = server(), []
        handle, self.output = tempfile.mkstemp(dir=self.server.outputs.name)
        os.close(handle)
        port = _free_port() if ranks > 1 else 0
        for rank in range(ranks):
            reported = _place(rank, ranks, port) if ranks > 1 else {}
            request = {"words": words, "environment": environment | reported, "folder": str(Path.cwd())}
            self.pids.append(self.server.fork(**request, output=self.output, before=before))
        self.pid = self.pids[0]

    def codes(self) -> list[int | None]:
        """The exit codes of the ranks; None of those that have not ended."""
        files = [Path(f"{self.output}.{pid}") for pid in self.pids]
        return [int(text) if (text := file.exists() and file.read_text()) else None for file in files]

    def alive(self) -> list[int]:
        """The processes that have not ended."""
        return [pid for pid, code in zip(self.pids, self.codes(), strict=True) if code is None]

    def poll(self) -> int | None:
        codes = self.codes()
        return None if None in codes else next((code for code in codes if code), 0)

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises ``subprocess.TimeoutExpired``."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert self.server.process.poll() is None, "the fork server has ended: see its errors"
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        for pid in self.alive():
            with suppress(ProcessLookupError):  # it has just ended, and we are yet to hear of it
                os.kill(pid, number)

    def printed(self) -> str:
        """What they have written so far."""
        return Path(self.output).read_text(errors="replace")

    def close(self) -> None:
        """None of them outlives this, nor what they have started."""
        for pid in self.alive():
            end(pid)
        self.wait(60)


class Started:
    """A command that starts afresh, with all processes that it starts."""

    def __init__(self, command: Sequence[str | Path], environment: dict[str, str]) -> None:
        handle, self.output = tempfile.mkstemp(prefix="started-")
        with os.fdopen(handle, "wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
                start_new_session=True,
            )  # fmt: skip
        self.pid, self.poll, self.send_signal = self.process.pid, self.process.poll, self.process.send_signal

    def wait(self, timeout: float) -> int:
        """Its exit code. Raises ``subprocess.TimeoutExpired``."""
        return self.process.wait(timeout)

    def alive(self) -> list[int]:
        """Itself, where it has not ended."""
        return [] if self.poll() is not None else [self.pid]

    def printed(self) -> str:
        """What they have written so far."""
        return Path(self.output).read_text(errors="replace")

    def close(self) -> None:
        """None of them outlives this."""
        if self.poll() is None:
            end(self.pid)
        self.wait(60)
        Path(self.output).unlink(missing_ok=True)


def forkable(command: Sequence[str | Path]) -> tuple[list[str], int] | None:
    """What a Python is to run and by how many ranks; None where something else is started, torchrun does more than
    start processes, or there is a GPU, which forked processes cannot use."""
    program, *words = map(str, command)
    if program != sys.executable or not words or torch.cuda.is_available():
        return None
    match words:
        case ["-m", "torch.distributed.run", "--standalone", count, *rest]:
            ranks = re.fullmatch(r"--nproc_per_node=(\d+)", count)
            return (rest, int(ranks[1])) if ranks and int(ranks[1]) > 1 else None
        case ["-m", "torch.distributed.run" | "accelerate.commands.launch", *_]:
            return None
    return words, 1


def _place(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _free_port() -> int:
    """Below those that the system gives away, and another for each worker of pytest-xdist."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 15000 + 1000 * (worker % 15) + (os.getpid() * 37 + next(_ports)) % 1000
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
