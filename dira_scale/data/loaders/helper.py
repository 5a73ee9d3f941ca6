"""A loader in a process of its own: its Python does not compete with the training process's for the interpreter.

The process fills slots of memory that both map; on a GPU they are pinned, and batches are copied to the device straight
from them. Only small tensors (parameters, labels) are pickled.
"""

import math
import mmap
import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.device_copies import DeviceCopies, StageSeconds
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.samples import Samples
from dira_scale.errors import UserError

LOOK = 1.0  # seconds between looks whether the process lives
MASK_BYTES = 2  # of a pixel's mask
ALIGNED = 16  # bytes; slots begin at multiples of it


class HelperLoader:
    """The batches of the loader ``inner``, a dotted name, with ``settings`` of its own.

    Raises UserError as the inner loader, and where this system lacks ``memfd_create`` (Linux has it).
    """

    def __init__(self, spec: LoaderSpec, *, inner: str, settings: dict[str, Any]) -> None:
        if not hasattr(os, "memfd_create"):
            raise UserError("data.helper=true needs Linux; use data.helper=false")
        self.spec, self.inner, self.settings = spec, inner, settings
        samples = Samples(spec.datasets, spec.split)
        if spec.masks:
            samples.require_masks()
        pixel = samples.dtype.itemsize * samples.channels + MASK_BYTES * spec.masks
        self._sample = pixel * sum(math.prod(view.sides) for view in spec.views.each)  # bytes
        self.seconds = StageSeconds()
        self.copies = DeviceCopies(torch.device(spec.device), self.seconds)

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``; the process ends with the iterator."""
        yield from self.copies.beside(self._host_batches(start_step, stop_step))

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        spec = self.spec
        first = spec.order.batch_at(start_step, spec.rank, spec.world).index
        largest = len(first) + 1  # evaluation's parts differ by one
        slots = Slots(spec.prefetch + 2, largest * self._sample)
        if self.copies.pinned:
            slots.pin()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        loader = self.inner, self.settings, replace(spec, device="cpu")
        process = context.Process(target=_serve, args=(theirs, slots, *loader, start_step, stop_step), daemon=True)
        process.start()
        theirs.close()
        for slot in range(slots.count):
            ours.send(slot)
        in_use: deque[tuple[int, Any]] = deque()
        try:
            for _ in range(start_step, stop_step):
                began = perf_counter()
                slot, batch, seconds = _receive(ours, process)
                self.seconds.add(wait=perf_counter() - began, **seconds)
                yield slots.batch(slot, batch)
                in_use.append((slot, self.copies.event()))
                if len(in_use) > 1:  # the copy before the last is long done
                    done, event = in_use.popleft()
                    if event is not None:
                        event.synchronize()
                    ours.send(done)
        finally:
            ours.close()
            process.kill()
            process.join()
            slots.close()


class Slots:
    """``count`` pieces of memory of at least ``size`` bytes; pickled to another process, both map the same."""

    def __init__(self, count: int, size: int, descriptor: int | None = None) -> None:
        self.count, self.pinned = count, False
        self.size = size = -(-size // ALIGNED) * ALIGNED
        self._descriptor = os.memfd_create("slots") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self._descriptor, count * size)
        self._memory = torch.frombuffer(mmap.mmap(self._descriptor, count * size), dtype=torch.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.count, self.size, DupFd(self._descriptor))

    def pin(self) -> None:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._memory.nbytes, 0))
        self.pinned = True

    def fill(self, slot: int, batch: Batch) -> None:
        """Copy a batch's views and masks into a slot."""
        large = _large(batch)
        for part, tensor in zip(self._parts(slot, large), large, strict=True):
            part.copy_(tensor)

    def batch(self, slot: int, batch: Batch) -> Batch:
        """``batch``, sent with views and masks without memory, with those of a slot; on a CPU, where nothing is copied
        on, with copies of them."""
        parts = self._parts(slot, _large(batch))
        return _with_large(batch, parts if self.pinned else [part.clone() for part in parts])

    def _parts(self, slot: int, large: list[Tensor]) -> list[Tensor]:
        parts, start = [], slot * self.size
        for tensor in large:
            parts.append(self._memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
            start += tensor.nbytes
        return parts

    def close(self) -> None:
        if self.pinned:
            torch.cuda.synchronize()  # the last copies
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._memory.data_ptr()))
        os.close(self._descriptor)


def _large(batch: Batch) -> list[Tensor]:
    """What is not pickled. Masks come first: their two bytes must lie at even addresses, views may have one."""
    return [*([] if batch.mask is None else [batch.mask]), *batch.views]


def _with_large(batch: Batch, large: list[Tensor]) -> Batch:
    mask, views = (None, large) if batch.mask is None else (large[0], large[1:])
    return replace(batch, mask=mask, views=tuple(views))


def _opened(count: int, size: int, descriptor: Any) -> Slots:
    return Slots(count, size, descriptor.detach())


def _receive(connection: Connection, process: Any) -> Any:
    """The process's next message; raises its error, or one that says how it ended."""
    while not connection.poll(LOOK) and process.is_alive():
        pass
    try:
        message = pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionResetError):
        process.join()
        how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
        raise UserError(
            f"the loader's process ended by itself ({how}); if memory was short, lower data.workers or "
            "data.prefetch; data.helper=false loads in the training process"
        ) from None
    if isinstance(message, BaseException):
        raise message
    return message


def _serve(
    connection: Connection,
    slots: Slots,
    inner: str,
    settings: dict[str, Any],
    spec: LoaderSpec,
    start: int,
    stop: int,
) -> None:
    """In the process: send batches in order, each once a slot is free; then wait to be killed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the GPU is the training process's
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # launchers send them to all; the training process decides
    torch.set_num_threads(1)
    before: dict[str, float] = {}
    with suppress(EOFError, ConnectionError):  # the training process is gone
        try:
            module, _, name = inner.rpartition(".")
            loader = getattr(import_module(module), name)(spec, **settings)
            for batch in loader.iterate(start, stop):
                slot = connection.recv()
                slots.fill(slot, batch)
                seconds = {part: value for part, value in loader.seconds().items() if part != "wait"}
                passed = {part: value - before.get(part, 0.0) for part, value in seconds.items()}
                before = seconds
                without = _with_large(batch, [tensor.to("meta") for tensor in _large(batch)])
                without = replace(without, distortions=tuple(each.clone() for each in batch.distortions))
                _send(connection, (slot, without, passed))
        except (EOFError, ConnectionError):
            raise
        except UserError as error:
            _send(connection, error)
        except BaseException:
            _send(connection, RuntimeError(f"in the loader's process:\n{traceback.format_exc()}"))
        while True:
            connection.recv()


def _send(connection: Connection, message: Any) -> None:
    """By plain pickling: torch's own, for connections, would open a file for each small tensor."""
    connection.send_bytes(pickle.dumps(message))
