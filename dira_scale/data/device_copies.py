"""Batches on the training device before they are asked for."""

from collections.abc import Generator, Iterator
from time import perf_counter

import torch

from dira_scale.data.batch import Batch
from dira_scale.data.stage_seconds import StageSeconds


class DeviceCopies:
    """Copies from pinned memory on a stream of their own, beside the step that runs. On a CPU nothing is copied.

    Attributes:
        pinned: whether the batches to copy should lie in pinned memory.
    """

    def __init__(self, device: torch.device, seconds: StageSeconds) -> None:
        self.device, self.seconds, self.pinned = device, seconds, device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None  # made with the first batch: a loader is built before it is used

    def ahead(self, batches: Generator[Batch, None, None]) -> Iterator[Batch]:
        """The same batches, on the device; one is copied ahead. Closing it closes ``batches``."""
        if not self.pinned:
            yield from batches
            return
        self._stream = self._stream or torch.cuda.Stream(self.device)
        try:
            following = self._copy(next(batches, None), self._stream)
            while following is not None:
                batch, done = following
                # The copy of the next batch begins here, so it runs beside the step on this one. It may reuse memory of
                # an earlier batch, whose step is queued by now: hence the streams wait for each other.
                following = self._copy(next(batches, None), self._stream)
                torch.cuda.current_stream(self.device).wait_event(done)
                yield batch
        finally:
            batches.close()

    def event(self) -> torch.cuda.Event | None:
        """Done when all copies begun so far are; None where nothing is copied."""
        return None if self._stream is None else self._stream.record_event()

    def _copy(self, batch: Batch | None, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event] | None:
        if batch is None:
            return None
        began = perf_counter()
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            copied = batch.copy_to(self.device)
        done = stream.record_event()
        self.seconds.add(copy=perf_counter() - began)
        return copied, done
