"""The CPU loader: threads decode, crop and resize into the batch.

The decoders and the resampling release the GIL, so a few threads use as many cores (more of them wait for it, and
``helper`` divides them over processes); nothing is pickled, and a view is written once, directly into its slot of the
batch.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import reduce
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.storage.store import is_local
from dira_scale.dataset.pixels.boxes import mirrored
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.cache.shards import Shards
from dira_scale.train.data.cache.traffic import fetched
from dira_scale.train.data.device_copies import DeviceCopies, StageSeconds
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.order import Order
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.requests import Request, Requests
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.storage import ShardFiles, Storage


class CpuLoader:
    """Batches of images or volumes (see ``loaders.Loader``).

    All must have the same number of channels; 8-bit and 16-bit images may mix, keeping their values.

    Raises DatasetError when the datasets do not have the views' dimensions, differ in channels, have no sample in
    ``split``, or no mask if masks are asked for; ArgumentError for one that is smaller than a crop.
    """

    sums: tuple[str, ...] = ()  # more than a StageSeconds has

    def __init__(self, spec: LoaderSpec) -> None:
        self.samples = Samples(spec.datasets, spec.split, spec.labels, spec.views)
        if spec.masks:
            self.samples.require_masks()
        given = spec.rank, spec.world, spec.fixed_epoch, spec.classes, spec.share
        self.requests = Requests(self.samples, spec.order, spec.views, spec.seed, *given)
        self.workers, self.prefetch, self.masks = spec.workers, spec.prefetch, spec.masks
        self.seconds = StageSeconds(*self.sums)
        self.copies = DeviceCopies(torch.device(spec.device), self.seconds)
        self.reader = SampleReader(self.samples, self.storage())

    def storage(self) -> Storage:
        """Return what ``reader`` reads from, once, when all else is set: the datasets' own shards."""
        return ShardFiles(self.samples.datasets)

    def costs(self) -> str:
        """Return a line on the files that an epoch opens, if these are many; else an empty text."""
        datasets, order, world = self.samples.datasets, self.requests.order, self.requests.world
        kept, count = min(dataset.most_open for dataset in datasets), sum(len(each.info.shards) for each in datasets)
        # Fewer are opened once a process. On a network disk an open is a request to its server, which answers some 10^5
        # a second to all nodes together: it counts where most images need one.
        local = all(is_local(dataset.root) for dataset in datasets)
        if not local or count <= kept or not isinstance(order, Order):
            return ""
        opens = world * fetched(order, Shards(self.samples, None).of, np.ones(count), kept, world)[1]
        why = f"a process keeps {kept:,} of {count:,} shards open (an eighth of ulimit -n)"
        remedy = "larger shards, or in a new run a larger data.block, open fewer"
        line = f"each epoch opens some {opens:,.0f} files for {order.epoch_size:,} samples: {why}; {remedy}"
        return line if opens > order.epoch_size / 2 else ""

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``."""
        yield from self.copies.beside(self._host_batches(start_step, stop_step))

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        steps = range(start_step, stop_step)
        try:
            with self.requested(steps) as requests:  # its end stops what the threads wait for
                for _ in steps:
                    began = perf_counter()
                    for request in islice(requests, self.prefetch + 1 - len(pending)):
                        views = self.requests.empty_views(request, pinned=self.copies.pinned)
                        mask = self.requests.empty_mask(request, pinned=self.copies.pinned) if self.masks else None
                        slots, tasks = [view.numpy() for view in views], self._tasks(request)
                        parts = [pool.submit(self.fill, slots, mask, request, task) for task in tasks]
                        pending.append((self.requests.batch(request, views, mask), parts))
                    batch, parts = pending.popleft()
                    for part in parts:
                        part.result()
                    self.seconds.add(wait=perf_counter() - began)
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    @contextmanager
    def requested(self, steps: range) -> Iterator[Iterator[Request]]:
        """The requests of ``steps``, each asked for when there is room for its batch."""
        yield self.requests.of(steps)

    def _tasks(self, request: Request) -> list[list[int]]:
        """Its samples as they lie in shards, in parts: several samples per task, several tasks per thread."""
        samples, part = np.argsort(request.index, kind="stable").tolist(), -(-len(request) // (4 * self.workers)) or 1
        return [samples[first : first + part] for first in range(0, len(request), part)]

    def fill(self, slots: list[np.ndarray], mask: Tensor | None, request: Request, samples: Sequence[int]) -> None:
        """Fill the ``slots``, per view [b, C, *size], of some samples; views of one image share its decoding, and
        neighbours a read."""
        if mask is not None:
            for i in samples:
                fill_masks(mask[i].numpy(), self.reader, request, i)
        views, rest = range(len(slots)), iter(samples)
        for run in self.reader.neighbours(request.index[samples].tolist()):
            began = perf_counter()
            if payloads := self.reader.payloads(run):
                self.seconds.add(read=perf_counter() - began)
            for i in islice(rest, len(run)):
                for image in dict.fromkeys(int(images[i]) for images in request.images):
                    showing = [view for view in views if request.images[view][i] == image]
                    self._fill_from(image, slots, request, i, showing, payloads.get(image))

    def _fill_from(
        self, image: int, slots: list[np.ndarray], request: Request, i: int, views: list[int], payload: Any
    ) -> None:
        crops = [request.geometries[view].crop(i) for view in views]
        read, decode, transform = self.reader.read(image, crops, [slots[view][i] for view in views], payload)
        self.seconds.add(read=read, decode=decode, transform=transform)


def fill_masks(masks: np.ndarray, reader: SampleReader, request: Request, i: int) -> None:
    """Sample ``i``'s ``masks`` int16 [V, *size]: its images' stored values, from the nearest pixel; ``IGNORE`` beyond
    an image, and where it has no mask.

    Raises UserError, as ``Samples.damaged``.
    """
    images = [int(of_view[i]) for of_view in request.images]
    crops = [geometry.crop(i) for geometry in request.geometries]
    for image in dict.fromkeys(images):  # views of one image share its decoding
        views = [view for view in range(len(masks)) if images[view] == image]
        # Of each view its mask before the last two axes change places, and for each axis the nearest pixels.
        targets = [masks[view].swapaxes(-1, -2) if crops[view].transposed else masks[view] for view in views]
        nearest = [
            [
                np.floor(start + (np.arange(n) + 0.5) / n * extent).astype(int)
                for start, extent, n in zip(crops[view].box, crops[view].box[mask.ndim :], mask.shape, strict=False)
            ]
            for view, mask in zip(views, targets, strict=True)
        ]
        sides = reader.samples.mask_sides(image)
        inside = [[at.clip(0, side - 1) for at, side in zip(axes, sides, strict=True)] for axes in nearest]
        boxes = [tuple(slice(int(at[0]), int(at[-1]) + 1) for at in axes) for axes in inside]
        parts = reader.mask_parts(image, boxes)
        if parts is None:
            masks[views] = IGNORE
            continue
        for view, mask, part, axes, wanted in zip(views, targets, parts, inside, nearest, strict=True):
            values = part[np.ix_(*(at - at[0] for at in axes))]
            beyond = [(at < 0) | (at >= side) for at, side in zip(wanted, sides, strict=True)]
            if any(axis.any() for axis in beyond):
                values = np.where(reduce(np.logical_or.outer, beyond), np.int16(IGNORE), values)
            mask[...] = mirrored(values, crops[view].flip)
