"""Copies of batches to the training device, beside the step that runs there; where a loader's time goes."""

from collections.abc import Generator, Iterator
from threading import Lock
from time import perf_counter
from typing import Protocol, Self, TypeVar

import torch

WAIT = "wait"  # of the training process, for a batch
PARTS = ("read", "decode", "transform", "copy")  # of the loader's threads, side by side


class StageSeconds:
    """Seconds so far, by part; threads add to it.

    ``wait`` passes in the training process; ``read`` (bytes from shards, and their checksums), ``decode``,
    ``transform`` (crop, resize, flip) and ``copy`` (to the device) in all threads together. ``more``: further sums of a
    loader's own, not always seconds.
    """

    def __init__(self, *more: str) -> None:
        self._lock = Lock()
        self._seconds = dict.fromkeys((WAIT, *PARTS, *more), 0.0)

    def add(self, **seconds: float) -> None:
        with self._lock:
            for part, value in seconds.items():
                self._seconds[part] += value

    def __call__(self) -> dict[str, float]:
        with self._lock:
            return dict(self._seconds)


class Copyable(Protocol):
    """Tensors of the host, with what belongs to them."""

    def copy_to(self, device: torch.device | str) -> Self:
        """Return it on ``device``, without waiting."""


Copied = TypeVar("Copied", bound=Copyable)


class DeviceCopies:
    """Copies from pinned memory on a stream of their own, beside the step that runs. On a CPU nothing is copied.

    Attributes:
        pinned: whether the batches to copy should lie in pinned memory.
    """

    def __init__(self, device: torch.device, seconds: StageSeconds) -> None:
        self.device, self.seconds, self.pinned = device, seconds, device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None  # made with the first batch: a loader is built before it is used

    def beside(self, batches: Generator[Copied, None, None]) -> Iterator[Copied]:
        """Yield the batches on the device. Closing it closes ``batches``.

        A batch is asked for, and its copy begins, when the caller asks for it: by then it has queued the step on the
        batch before, which the device computes meanwhile. Asking earlier would keep that step waiting for a loader
        that is late.
        """
        if not self.pinned:
            yield from batches
            return
        self._stream = self._stream or torch.cuda.Stream(self.device)
        computing = torch.cuda.current_stream(self.device)
        in_use: Copied | None = None  # its memory is not reused while the step on it may still read it
        read = computing.record_event()  # after the step before that one
        try:
            for batch in batches:
                began = perf_counter()
                self._stream.wait_event(read)  # now memory that was released may be reused
                with torch.cuda.stream(self._stream):
                    copied = batch.copy_to(self.device)
                arrived = self._stream.record_event()
                self.seconds.add(copy=perf_counter() - began)
                read, in_use = computing.record_event(), copied
                computing.wait_event(arrived)
                yield in_use
        finally:
            batches.close()

    def event(self) -> torch.cuda.Event | None:
        """Done when all copies begun so far are; None where nothing is copied."""
        return None if self._stream is None else self._stream.record_event()
