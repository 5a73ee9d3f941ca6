"""A loader in processes of its own, of a few threads each, which take turns: its batch k is from process k mod N.

Threads of one process wait for the interpreter's lock: 4 read 1.6 times as many images as one, and 15 no more than one.
Nor do they compete for it with the training process, which launches the GPU's work.
"""

import atexit
import math
import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from itertools import cycle, islice
from multiprocessing.resource_tracker import ensure_running
from time import perf_counter
from typing import Any

import torch

from dira_scale.base.errors import UserError
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.device_copies import DeviceCopies, StageSeconds
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import LoaderChoice
from dira_scale.train.data.loaders.slots import Slots
from dira_scale.train.data.samples import Samples

LOOK = 1.0  # seconds between looks whether a process lives
MASK_BYTES = 2  # of a pixel's mask
# Launchers send these to all; the training process decides.
TRAINERS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}


class HelperLoader:
    """The batches of the loader ``inner``, whose threads are divided over so many ``processes``.

    Raises as the inner loader. Needs ``memfd_create``, which Linux has.
    """

    def __init__(self, spec: LoaderSpec, *, inner: LoaderChoice, processes: int) -> None:
        self.processes, self.inner = processes, inner
        self.spec = replace(spec, device="cpu", prefetch=-(-spec.prefetch // processes), stride=processes)
        self.seconds = StageSeconds(*inner.build(self.spec).seconds())  # what it refuses, it refuses here
        self.copies = DeviceCopies(torch.device(spec.device), self.seconds)
        samples = Samples(spec.datasets, spec.split)
        pixel = samples.dtype.itemsize * samples.channels + MASK_BYTES * spec.masks
        self._sample = pixel * sum(math.prod(view.sides) for view in spec.views.each)  # bytes

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``; the processes end with the iterator."""
        yield from self.copies.beside(self._host_batches(start_step, stop_step))

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        spec, steps = self.spec, range(start_step, stop_step)
        first = spec.order.batch_at(start_step, spec.rank, spec.world).index
        largest = len(first) + 1  # evaluation's parts differ by one
        slots = Slots(self.processes * spec.prefetch + 2, largest * self._sample)
        if self.copies.pinned:
            slots.pin()
        starts = steps[: self.processes]
        helpers: list[Helper] = []
        in_use: deque[tuple[int, Any]] = deque()
        try:
            for _ in starts:
                helpers.append(Helper(slots))
            for number, (helper, start) in enumerate(zip(helpers, starts, strict=True)):
                threads = (spec.workers + number) // len(starts) or 1
                helper.begin(self.inner, replace(spec, workers=threads, stride=len(starts)), start, stop_step)
            turns = cycle(helpers)  # a free slot is for the first batch that has none yet
            for slot in range(slots.count):
                next(turns).fill(slot)
            for helper in islice(cycle(helpers), len(steps)):
                began = perf_counter()
                slot, batch, seconds = helper.receive()
                self.seconds.add(wait=perf_counter() - began, **seconds)
                yield slots.batch(slot, batch)
                in_use.append((slot, self.copies.event()))
                if len(in_use) > 1:  # the copy before the last is long done
                    done, event = in_use.popleft()
                    if event is not None:
                        event.synchronize()
                    next(turns).fill(done)
        finally:
            for helper in helpers:
                helper.kill()
            for helper in helpers:
                helper.join()
            slots.close()


class Helper:
    def __init__(self, slots: Slots) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, slots), daemon=True)
        ensure_running()  # the start of multiprocessing's own helper would unblock signals below
        before = signal.pthread_sigmask(signal.SIG_BLOCK, TRAINERS_SIGNALS)
        try:
            self._process.start()  # inherits the mask, so that no moment of its start is open to them
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        atexit.register(self._process.kill)  # before multiprocessing's own, which would wait for its end by SIGTERM
        other_end.close()

    def begin(self, inner: LoaderChoice, spec: LoaderSpec, start_step: int, stop_step: int) -> None:
        """Say which batches it makes: those of every ``spec.stride``-th step from ``start_step`` on."""
        self._send((inner, spec, start_step, stop_step))

    def fill(self, slot: int) -> None:
        self._send(slot)

    def _send(self, message: Any) -> None:
        with suppress(ConnectionError):  # it has ended: ``receive`` says how
            _send(self._connection, message)

    def receive(self) -> tuple[int, Batch, dict[str, float]]:
        """Its next batch's slot, the batch without what lies there, and the seconds that passed; raises its error, or
        one that says how it ended."""
        while not self._connection.poll(LOOK) and self._process.is_alive():
            pass
        try:
            message = pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):  # before a message, or within one
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise UserError(
                f"one of the loader's processes ended by itself ({how}); if memory was short, use fewer `workers`, a "
                "smaller `prefetch`, or load in the training process, without `helper`"
            ) from None
        if isinstance(message, BaseException):
            raise message
        return message

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()

    def join(self) -> None:
        self._process.join()
        atexit.unregister(self._process.kill)


def _serve(connection: Any, slots: Slots) -> None:
    """In the process: send batches in order, each once a slot is free; then wait to be killed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the GPU is the training process's
    torch.set_num_threads(1)
    before: dict[str, float] = {}
    with suppress(EOFError, ConnectionError):  # the training process is gone
        try:
            inner, spec, start_step, stop_step = pickle.loads(connection.recv_bytes())
            loader = inner.build(spec)
            for batch in loader.iterate(start_step, stop_step):
                slot = pickle.loads(connection.recv_bytes())
                left = slots.fill(slot, batch)
                seconds = {part: value for part, value in loader.seconds().items() if part != "wait"}
                passed = {part: value - before.get(part, 0.0) for part, value in seconds.items()}
                before = seconds
                _send(connection, (slot, left, passed))
        except (EOFError, ConnectionError):
            raise
        except UserError as error:
            _send(connection, error)
        except BaseException:
            _send(connection, RuntimeError(f"in the loader's process:\n{traceback.format_exc()}"))
        while True:
            connection.recv_bytes()


def _send(connection: Any, message: Any) -> None:
    """By plain pickling: torch's own, for connections, would open a file for each small tensor."""
    connection.send_bytes(pickle.dumps(message))
