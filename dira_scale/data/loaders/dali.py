"""The DALI loader: our threads read and check payloads ahead, one more hands whole batches to DALI.

On a GPU the views are made there, on a stream of DALI's own, beside the step that runs.
"""

import logging
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from time import perf_counter

import numpy as np
import torch

from dira_scale.data.batch import Batch
from dira_scale.data.dali_views import COLOURS, DaliViews, Payloads, hand_over
from dira_scale.data.loaders.cpu import CpuLoader, fill_masks
from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples, stored_codecs
from dira_scale.errors import UserError
from dira_scale.pixels import codecs, headers

logger = logging.getLogger(__name__)

CODECS = {"jpg", "jp2", "png"}
Masks = tuple[torch.Tensor | None, list[Future[None]]]  # empty, and the tasks that fill them
CONVERT = "python -m dira_scale.shard convert path=… to=webdataset codec=jp2 out=…"


class DaliLoader(CpuLoader):
    """Batches of 2D images (see ``loaders.Loader``).

    Pixels are those of ``CpuLoader`` up to DALI's resampling: the same triangular filter, but at a crop's edges it
    repeats the last pixel where Pillow gives the others more weight, and JPEGs are always decoded at full scale.

    Raises UserError as the CPU loader does, and for volumes, other than 1 or 3 channels, or a codec that DALI does not
    read.
    """

    def _prepare(self) -> None:
        _check(self.samples, self.copies.device)
        self._views: DaliViews | None = None  # of the last iteration, with DALI's threads, stream and decoders

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """Batches whose views are where they are wanted; ``copies`` brings the rest."""
        readers = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        maker = ThreadPoolExecutor(1, thread_name_prefix="loader-dali")
        kept, self._views = self._views, None  # one thread at a time may use them
        views = kept or DaliViews(self.samples, self.requests.views, self.copies.device, self.workers, self.seconds)
        pending: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
        requests = self.requests.between(start_step, stop_step)
        try:
            for _ in range(start_step, stop_step):
                began = perf_counter()
                for request in islice(requests, self.prefetch + 1 - len(pending)):
                    reading, masks = self._begin_reading(request, readers), self._begin_masks(request, readers)
                    pending.append(maker.submit(self._make, request, reading, masks, views))
                batch, done = pending.popleft().result()
                hand_over(batch.views, done)
                self.seconds.add(wait=perf_counter() - began)
                yield batch
        finally:
            maker.shutdown(cancel_futures=True)  # first: it waits for what the others read
            readers.shutdown(cancel_futures=True)
        self._views = views  # for the next validation, but not after an error

    def _begin_reading(self, request: Request, readers: ThreadPoolExecutor) -> list[Future[Payloads]]:
        images = np.unique(np.concatenate(request.images))
        parts = np.array_split(images, 4 * self.workers)  # several samples per task, several tasks per thread
        return [readers.submit(self._read, part) for part in parts if len(part)]

    def _begin_masks(self, request: Request, readers: ThreadPoolExecutor) -> Masks:
        if not self.masks:
            return None, []
        mask = self.requests.empty_mask(request, pinned=self.copies.pinned)

        def fill(samples: range) -> None:
            for i in samples:
                fill_masks(mask[i].numpy(), self.samples, request, i)

        return mask, [readers.submit(fill, samples) for samples in self._tasks(request)]

    def _read(self, images: np.ndarray) -> Payloads:
        began = perf_counter()
        words = self.samples.words("codec", images)
        payloads = {}
        for image, codec in zip(images.tolist(), words, strict=True):
            payload = self.samples.payload(image)
            try:
                headers.check(payload, codec, self.samples.shape(image))
            except (ValueError, RuntimeError) as error:
                raise self.samples.damaged(image, error) from error
            # DALI takes writable memory as it is; read-only bytes it would copy in the one thread that keeps it busy.
            payloads[image] = np.frombuffer(payload, np.uint8)
        self.seconds.add(read=perf_counter() - began)
        return payloads

    def _make(
        self, request: Request, reading: Sequence[Future[Payloads]], masks: Masks, views: DaliViews
    ) -> tuple[Batch, torch.cuda.Event | None]:
        """The batch of ``request``, and the event after which its views are there."""
        if len(request) == 0:
            return self.requests.batch(request, self.requests.empty_views(request, pinned=False), masks[0]), None
        payloads = {image: payload for part in reading for image, payload in part.result().items()}
        try:
            made, done = views.make(request, payloads)
        except RuntimeError as error:
            raise self._named(payloads, views, error) from error
        mask, parts = masks
        for part in parts:
            part.result()
        return self.requests.batch(request, made, mask), done

    def _named(self, payloads: Payloads, views: DaliViews, error: RuntimeError) -> UserError:
        """The error that names the sample which DALI refuses: its own is about a batch."""
        images = np.fromiter(payloads, np.int64)
        sides = np.stack([self.samples.column(name, images) for name in ("height", "width")], 1).astype(np.int32)
        for image, side in zip(payloads, sides, strict=True):
            try:
                views.decode_alone(payloads[image], side)
            except RuntimeError as cause:
                return self.samples.damaged(image, codecs.DecodeError(f"DALI does not decode it: {cause}"))
        return UserError(f"data.loader=dali failed ({error}), although each image of the batch can be decoded: "
                         "fewer images per process, or data.loader=cpu")  # fmt: skip


def _check(samples: Samples, device: torch.device) -> None:
    """Refuse volumes, and images that DALI does not read; say which of them a GPU does not decode."""
    if samples.dimensions != 2:
        raise UserError("data.loader=dali reads images, and these shards hold volumes: use data.loader=cpu")
    if samples.channels not in COLOURS:
        raise UserError(
            f"data.loader=dali reads images of 1 or 3 channels, these have {samples.channels}: use data.loader=cpu"
        )
    stored = stored_codecs(samples.datasets)
    if unread := ", ".join(sorted(stored - CODECS)):
        raise UserError(f"data.loader=dali does not read codec {unread}: use data.loader=cpu, or convert: {CONVERT}")
    slow = ", ".join(sorted(stored - set(codecs.DECODED_ON_GPU)))
    if slow and device.type == "cuda":
        logger.warning("%s has no GPU decoder, so DALI decodes it on CPU threads; faster: %s", slow, CONVERT)
