"""Processes that each read in one thread for this one; they live as long as a loader has them.

Threads of one process wait for the interpreter's lock: 4 read 1.6 times as many images as one, and 15 no more than one.
Nor do processes compete for it with the training process, which launches the GPU's work. They are forked off a server
that has imported what they need: one takes some hundredths of a second, and 25 MB.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import cycle
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import torch

from dira_scale.base.errors import UserError

IMPORTED = ["dira_scale.train.data.loaders.helper", "dira_scale.train.data.loaders.stream"]  # by the server, once
LOOK = 1.0  # seconds between looks whether a process lives
# Launchers send these to all; the training process decides.
TRAINERS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


class Worker:
    """One of the processes; it does what it is sent one after another."""

    def __init__(self, index: int, processes: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self._connection, other_end = context.Pipe()
        self.process = context.Process(target=serve, args=(other_end, dict(os.environ), index, processes), daemon=True)
        self.process.start()
        self._asked: deque[Future[Any]] = deque()
        self.closed: deque[int] = deque()  # jobs, perhaps by the garbage collector, within a message
        other_end.close()

    def send(self, *message: Any, descriptors: Iterable[int] = ()) -> None:
        with suppress(OSError):  # it has ended: ``result`` says how
            while self.closed:
                self._connection.send_bytes(pickle.dumps(("close", self.closed.popleft(), ())))
            self._connection.send_bytes(pickle.dumps(message))
            for descriptor in descriptors:
                send_handle(self._connection, descriptor, self.process.pid)

    def call(self, job: int, *arguments: Any) -> "Future[Any]":
        """Ask for what the job returns of ``arguments``; :meth:`result` waits for it."""
        self.send("call", job, arguments)
        self._asked.append(call := Future[Any]())
        return call

    def result(self, call: "Future[Any]") -> Any:
        """Wait for an answer; raises its error, or how the process ended."""
        while not call.done():
            self._receive()
        return call.result()

    def drain(self) -> None:
        """Wait for all answers: a process that sends a long one reads nothing long meanwhile."""
        while self._asked:
            self._receive()

    def _receive(self) -> None:
        while not self._connection.poll(LOOK) and self.process.is_alive():
            pass
        try:
            content = self._connection.recv_bytes()
        except (EOFError, OSError):  # before a message, or within one
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise UserError(
                f"one of the loader's processes ended by itself ({how}); if memory was short, use fewer `workers`, a "
                "smaller `prefetch`, or load in the training process, without `helper`"
            ) from None
        call, answer = self._asked.popleft(), _answer(pickle.loads, content)
        call.set_exception(answer) if isinstance(answer, BaseException) else call.set_result(answer)

    def kill(self) -> None:
        self._connection.close()
        self.process.kill()


class Workers:
    """So many processes, begun with the first job, for one thread; see :func:`shared`."""

    def __init__(self, processes: int) -> None:
        self.processes, self._jobs, self._owner = processes, 0, os.getpid()
        self._workers: list[Worker] = []

    def __iter__(self) -> Iterator[Worker]:
        if not self._workers:
            multiprocessing.set_forkserver_preload(IMPORTED)
            resource_tracker.ensure_running()  # its start would unblock signals below
            before = signal.pthread_sigmask(signal.SIG_BLOCK, TRAINERS_SIGNALS)
            try:
                forkserver.ensure_running()  # so all that it forks has them blocked from the first
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._workers += [Worker(index, self.processes) for index in range(self.processes)]
            util.Finalize(self, _end, (self._workers,), exitpriority=0)  # before Python waits for the processes
        return iter(self._workers)

    @property
    def broken(self) -> bool:
        return not all(worker.process.is_alive() for worker in self._workers)

    def open(self, job: Callable[..., Any], *descriptors: int) -> int:
        """Send what calls do to all processes; with open files, what makes that, of a process's index, how many there
        are, and the files. Returns its number."""
        self._jobs += 1
        content = pickle.dumps(job)
        for worker in self:
            worker.drain()
            worker.send("open", self._jobs, (content, len(descriptors)), descriptors=descriptors)
        return self._jobs

    def close(self, job: int) -> None:
        for worker in self._workers if os.getpid() == self._owner else ():  # objects are forked, too
            worker.closed.append(job)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Yield what ``function`` returns of each item, in their order; each process has at most two to do."""
        job, waiting = self.open(function), deque[tuple[Worker, Future[Any]]]()
        try:
            for worker, item in zip(cycle(self), items, strict=False):
                waiting.append((worker, worker.call(job, item)))
                if len(waiting) > self.processes:
                    worker, call = waiting.popleft()
                    yield worker.result(call)
            yield from (worker.result(call) for worker, call in waiting)
        finally:
            self.close(job)


def serve(connection: Any, environment: dict[str, str], index: int, processes: int) -> None:
    """In the process: open jobs and answer calls, in their order, until the trainer has gone."""
    for each in TRAINERS_SIGNALS:  # another may have begun the server, which blocks none then
        signal.signal(each, signal.SIG_IGN)
    os.environ.clear()  # the server's may be of an earlier time
    os.environ.update(environment, CUDA_VISIBLE_DEVICES="")  # the GPU is the training process's
    torch.set_num_threads(1)
    gc.freeze()  # what was imported stays in the pages that all processes share
    jobs: dict[int, Any] = {}
    with suppress(EOFError, ConnectionError):
        while True:
            kind, job, arguments = pickle.loads(connection.recv_bytes())
            if kind == "call":
                # By plain pickling: torch's own, for connections, would open a file for each small tensor.
                answer = _answer(jobs[job], *arguments)
                content = _answer(pickle.dumps, answer)
                connection.send_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
            elif kind == "close":
                jobs.pop(job, None)
            else:
                content, descriptors = arguments
                files = [recv_handle(connection) for _ in range(descriptors)]
                jobs[job] = _answer(pickle.loads, content)
                jobs[job] = _answer(jobs[job], index, processes, *files) if files else jobs[job]
    os._exit(0)  # threads may wait for shards


def _answer(job: Any, *arguments: Any) -> Any:
    """Return what a job returns, or its error; an error in its place is the answer."""
    try:
        return job if isinstance(job, BaseException) else job(*arguments)
    except UserError as error:
        return error
    except BaseException:
        return RuntimeError(f"in the loader's process:\n{traceback.format_exc()}")


_SHARED: weakref.WeakValueDictionary[int, Workers] = weakref.WeakValueDictionary()


def shared(processes: int) -> Workers:
    """Return this process's workers, which all who ask for so many have."""
    found = _SHARED.get(processes)
    if found is None or found.broken:
        _SHARED[processes] = found = Workers(processes)
    return found


def _end(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.process.join()


# In a process that was forked off this one, the server and the workers are not its own.
os.register_at_fork(after_in_child=lambda: vars(forkserver._forkserver).update(vars(forkserver.ForkServer())))
os.register_at_fork(after_in_child=_SHARED.clear)
