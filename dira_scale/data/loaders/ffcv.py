"""FFCV's loader: its file format, and the decoding and resizing of its C library.

The library is called from our threads and without Python's lock, so nothing is compiled when a run begins, a damaged
image is an error rather than old pixels, and memory holds an image per thread rather than one per sample.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.beton import BetonError
from dira_scale.data.beton_images import BetonImages
from dira_scale.data.codecs import DecodeError
from dira_scale.data.device_copies import DeviceCopies
from dira_scale.data.ffcv_library import FfcvLibrary
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.masks import fill_masks
from dira_scale.data.order import EvalOrder, Order
from dira_scale.data.requests import Request, Requests
from dira_scale.data.samples import Samples
from dira_scale.data.stage_seconds import StageSeconds
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError


class FfcvLoader:
    """Batches of 8-bit 2D images from ``{split}.beton``; interface and arguments as in ``loaders.Loader``.

    The filter is OpenCV's INTER_AREA: where a crop shrinks in both directions, the mean of the area that a pixel
    covers, rounded; otherwise linear between two pixels in each direction. Masks are read from the tars.

    Raises UserError when FFCV is missing, or a dataset is not 2D of 8 bits with 1 or 3 channels, or has no ``.beton``
    with the samples of its manifest.
    """

    def __init__(
        self,
        datasets: list[ShardedDataset],
        split: str,
        order: Order | EvalOrder,
        views: ViewSpec,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 1,
        prefetch: int = 4,
        fixed_epoch: int | None = None,
        masks: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.library = FfcvLibrary()
        self.samples = Samples(datasets, split)
        if self.samples.dtype != torch.uint8 or self.samples.channels not in (1, 3):
            raise UserError(
                f"data.loader=ffcv reads images of 8 bits with 1 or 3 channels; these have up to "
                f"{8 * self.samples.dtype.itemsize} bits and {self.samples.channels} channels: use data.loader=cpu"
            )
        self.files = [BetonImages(dataset, split) for dataset in datasets]
        self.requests = Requests(self.samples, order, views, seed, rank, world, fixed_epoch)
        self.workers, self.prefetch, self.masks = workers, prefetch, masks
        self.seconds = StageSeconds()
        self.copies = DeviceCopies(torch.device(device), self.seconds)

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """This rank's batches of steps ``start_step`` to ``stop_step - 1``."""
        yield from self.copies.ahead(self._host_batches(start_step, stop_step))

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        pending: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for step in range(start_step, stop_step):
                began = perf_counter()
                while len(pending) <= self.prefetch and step + len(pending) < stop_step:
                    pending.append(self._begin(step + len(pending), pool))
                batch, parts = pending.popleft()
                for part in parts:
                    part.result()
                self.seconds.add(wait=perf_counter() - began)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(self, step: int, pool: ThreadPoolExecutor) -> tuple[Batch, list[Future[None]]]:
        """A batch with empty views, and the tasks that fill them."""
        request = self.requests.at(step)
        views = self.requests.empty_views(request, pinned=self.copies.pinned)
        slots = [view.numpy() for view in views]
        mask = self.requests.empty_mask(request) if self.masks else None
        tasks = np.array_split(np.arange(len(request)), min(4 * self.workers, len(request)) or 1)
        parts = [pool.submit(self._fill, slots, mask, request, task.tolist()) for task in tasks]
        return self.requests.batch(request, views, mask), parts

    def _fill(self, slots: list[np.ndarray], mask: Tensor | None, request: Request, samples: list[int]) -> None:
        """Fill the ``slots``, per view [b, C, S, S], of some samples; views of one image share its decoding."""
        for i in samples:
            if mask is not None:
                fill_masks(mask[i].numpy(), self.samples, request, i)
            shown = [int(images[i]) for images in request.images]
            for image in dict.fromkeys(shown):
                pixels = self._decode(image)
                began = perf_counter()
                for slot, geometry in (
                    (slots[view], request.geometries[view]) for view, other in enumerate(shown) if other == image
                ):
                    resized = self.library.resize(pixels, geometry.box[i].tolist(), slot.shape[-1])
                    flipped = resized[:, ::-1] if geometry.flip[i] else resized
                    slot[i] = np.moveaxis(flipped, -1, 0)[: slot.shape[1]]  # grey images have three equal channels
                self.seconds.add(transform=perf_counter() - began)

    def _decode(self, image: int) -> np.ndarray:
        """The stored pixels of a sample, [H, W, 3]. Raises UserError if they are damaged."""
        (dataset,), (row,) = self.samples.locate(np.array([image]))
        began = perf_counter()
        try:
            payload, height, width = self.files[dataset].read(row)
            read = perf_counter()
            pixels = payload if payload.ndim == 3 else self.library.decode(payload, height, width)
        except (BetonError, DecodeError, OSError) as error:
            raise self.files[dataset].damaged(row, error) from error
        self.seconds.add(read=read - began, decode=perf_counter() - read)
        return pixels
