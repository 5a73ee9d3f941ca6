"""A loader in processes of its own, each of which decodes its share of every batch, straight into the batch's slot."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import torch

from dira_scale.train.data.batch import Batch
from dira_scale.train.data.device_copies import WAIT, DeviceCopies, StageSeconds
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import LOADERS, LoaderChoice
from dira_scale.train.data.loaders.slots import Layout, SlotBatch, Slots
from dira_scale.train.data.order import Order
from dira_scale.train.data.requests import Requests
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.workers import shared

_ITERATORS = count(1)


class HelperLoader:
    """The batches of the loader ``inner`` from so many ``processes``, which live as long as a loader of theirs.

    Raises as the inner loader. Needs ``memfd_create``, which Linux has.
    """

    def __init__(self, spec: LoaderSpec, inner: LoaderChoice, processes: int) -> None:
        self.spec, self.inner = replace(spec, device="cpu"), inner
        self.seconds = StageSeconds(*inner.build(self.spec).seconds())  # what it refuses, it refuses here
        self.copies = DeviceCopies(torch.device(spec.device), self.seconds)
        samples = Samples(spec.datasets, spec.split, spec.labels, spec.views)
        requests = Requests(samples, spec.order, spec.views, spec.seed, classes=spec.classes)
        self.layout = Layout(requests.example(spec.masks))
        self.most = -(-spec.order.batch // spec.world)  # samples of a batch of this rank
        self.workers = shared(processes)
        self._idle: list[Station] = []  # whose iterators have come to their end

    def costs(self) -> str:
        """Return what the inner loader says."""
        return getattr(self.inner.build(self.spec), "costs", str)()

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``."""
        yield from self.copies.beside(self._host_batches(range(start_step, stop_step)))

    def _host_batches(self, steps: range) -> Generator[Any, None, None]:
        if self.workers.broken:
            self.workers, self._idle = shared(self.workers.processes), []
        station, upcoming = self._idle.pop() if self._idle else Station(self), iter(steps)
        slots, iterator = station.slots, next(_ITERATORS)
        slots.now.fill_(iterator)
        waiting: deque[tuple[SlotBatch, int, list[Future[Any]]]] = deque()
        in_use: deque[tuple[int, Any]] = deque()

        def fill(slot: int) -> None:
            if (step := next(upcoming, None)) is not None:
                batch = SlotBatch(self.layout, slots[slot], self._samples(step), step)
                arguments = iterator, steps, step, slot, batch.samples
                waiting.append((batch, slot, [worker.call(station.job, *arguments) for worker in self.workers]))

        try:
            for slot in range(slots.count):
                fill(slot)
            while waiting:
                began, (batch, slot, calls) = perf_counter(), waiting[0]
                for worker, call in zip(self.workers, calls, strict=True):
                    epoch, passed, whole = worker.result(call)
                    self.seconds.add(**passed)
                waiting.popleft()
                self.seconds.add(wait=perf_counter() - began)
                batch = replace(batch, epoch=epoch)
                yield whole or (batch if self.copies.pinned else batch.copy_to("cpu"))
                in_use.append((slot, self.copies.event()))
                if len(in_use) > 1:  # the copy before the last is long done
                    done, event = in_use.popleft()
                    if event is not None:
                        event.synchronize()
                    fill(done)
            for _, event in in_use:
                if event is not None:
                    event.synchronize()
            self._idle.append(station)
        finally:
            slots.now.fill_(0)  # what is still to be filled is left

    def _samples(self, step: int) -> int:
        order, spec = self.spec.order, self.spec
        return self.most if isinstance(order, Order) else len(order.batch_at(step, spec.rank, spec.world).index)


class Station:
    """Memory for the batches of one iterator at a time, and the job that fills it."""

    def __init__(self, loader: HelperLoader) -> None:
        self.workers, self.job = loader.workers, 0  # none yet
        self.slots = Slots(loader.spec.prefetch + 2, loader.layout.starts(loader.most)[-1])
        if loader.copies.pinned:
            self.slots.pin()
        share = partial(Share, loader.inner, loader.spec, loader.layout, self.slots.count, self.slots.size)
        self.job = self.workers.open(share, self.slots.descriptor)

    def __del__(self) -> None:
        self.workers.close(self.job)
        self.slots.close()


class Share:
    """In a process: called with the number and the steps of an iterator, a step, its slot and the number of the batch's
    samples, it fills its part of the slot, and returns the epoch, the seconds that passed, and a batch that does not
    fit."""

    def __init__(
        self, inner: LoaderChoice, spec: LoaderSpec, layout: Layout, count: int, size: int, *place: int
    ) -> None:
        index, processes, descriptor = place
        self.layout, self.slots = layout, Slots(count, size, descriptor)
        self.whole = inner.name not in LOADERS  # one of the user's own makes whole batches
        spec = spec if self.whole else replace(spec, workers=1, share=(index, processes))
        self.loader: Any = inner.build(spec)
        self._iterator, self._before = 0, dict[str, float]()

    def __call__(self, iterator: int, steps: range, step: int, slot: int, samples: int) -> Any:
        if int(self.slots.now) != iterator:  # it is closed
            return None
        if iterator != self._iterator:
            self._iterator = iterator
            self._open = None if self.whole else self.loader.requested(steps)  # ends with this, or at the next
            self._next = self.loader.iterate(steps.start, steps.stop) if self._open is None else self._open.__enter__()
        place = self.layout.batch(self.slots[slot], samples)
        made = next(self._next)
        if not self.whole:
            rows = self.loader.requests.shared(samples)
            place, request = place.each_tensor(lambda tensor: tensor[rows]), made
            as_stored = request.index.argsort(kind="stable").tolist()
            self.loader.fill([view.numpy() for view in place.views], place.mask, request, as_stored)
            made = self.loader.requests.batch(request, place.views, place.mask)
        arrays, values = place.tensors(), made.tensors()
        fits = [(each.dtype, each.shape) for each in arrays] == [(each.dtype, each.shape) for each in values]
        assert fits or self.whole
        for array, value in zip(arrays, values, strict=True) if fits else ():
            if array is not value:  # as what was decoded there
                array.copy_(value)
        seconds = {part: value for part, value in self.loader.seconds().items() if part != WAIT}
        passed = {part: value - self._before.get(part, 0.0) for part, value in seconds.items()}
        self._before = seconds
        return made.epoch, passed, None if fits else made
