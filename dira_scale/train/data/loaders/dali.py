"""The DALI loader: our threads read and check payloads ahead, one more hands whole batches to DALI.

On a GPU the views are made there, on a stream of DALI's own, beside the step that runs.
"""

import logging
import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.errors import DatasetError, UserError
from dira_scale.base.machine.install import dali_extra, install_command
from dira_scale.dataset.pixels import codecs, headers
from dira_scale.train.data.batch import Batch, per_sample
from dira_scale.train.data.device_copies import StageSeconds
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader, fill_masks
from dira_scale.train.data.requests import Request
from dira_scale.train.data.samples import Samples, stored_codecs
from dira_scale.train.data.views import ViewSpec

try:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # DALI's JPEG 2000 decoder for CPUs warns at every image
    import nvidia.dali.experimental.dynamic as ndd
    from nvidia.dali import types
except ImportError as error:
    raise UserError(f"the loader dali needs NVIDIA DALI ({error}): {install_command(dali_extra())}") from error

READERS = 4  # threads that wait for the interpreter's lock, as the step's launches do
logger = logging.getLogger(__name__)

CODECS = {"jpg", "jp2", "png"}
AGAIN = "shard again with recipe.codec=gpu"
COLOURS = {1: types.GRAY, 3: types.RGB}  # by channels; any other request crashes DALI's JPEG decoder for CPUs
Payloads = Mapping[int, np.ndarray]  # encoded bytes, uint8 and writable, by sample
Masks = tuple[torch.Tensor | None, list[Future[None]]]  # empty, and the tasks that fill them


class DaliViews:
    """Makes the views of one batch after another; used by one thread.

    Args:
        views: which it makes.
        device: where the views are wanted.
        threads: of DALI, for what it does on the CPU.
        seconds: gets ``decode`` and ``transform``; on a GPU these are the host's, which queues the work.
    """

    def __init__(
        self, samples: Samples, views: ViewSpec, device: torch.device, threads: int, seconds: StageSeconds
    ) -> None:
        self.samples, self.seconds = samples, seconds
        self.sides = [view.sides[0] for view in views.each]
        self.colours = COLOURS[samples.channels]
        self.dtype = ndd.uint8 if samples.dtype == torch.uint8 else ndd.uint16
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        number = self.stream.device_index if self.stream else None
        self.context = ndd.EvalContext(num_threads=threads, device_id=number, cuda_stream=self.stream)

    def make(self, request: Request, payloads: Payloads) -> tuple[tuple[Tensor, ...], torch.cuda.Event | None]:
        """Per view [b, C, S, S] of the stored type, for at least one sample; and the event after which they are there.

        Views that show the same images share their decoding. Raises RuntimeError if DALI fails.
        """
        showing: dict[bytes, list[int]] = {}
        for view, images in enumerate(request.images):
            showing.setdefault(images.tobytes(), []).append(view)
        by_view: dict[int, Tensor] = {}
        # In this mode an operation returns when it has run on the CPU, or is queued on the stream.
        with torch.cuda.stream(self.stream), ndd.EvalMode.sync_cpu, self.context:
            for views in showing.values():
                images, boxes = request.images[views[0]], [request.geometries[view].box for view in views]
                first = np.minimum.reduce([box[:, :2] for box in boxes])
                last = np.maximum.reduce([box[:, :2] + box[:, 2:] for box in boxes])
                regions = self._decode([payloads[image] for image in images.tolist()], first, last)
                for view, box in zip(views, boxes, strict=True):
                    flip = request.geometries[view].flip
                    pixels = self._resize(regions, box[:, :2] - first, box[:, 2:], flip, self.sides[view])
                    if pixels.dtype != torch.uint8 and (bits := self.samples.column("bits", images)).min() != 16:
                        # 8-bit images among 16-bit ones: DALI scales them by 257 to the range of 16 bits.
                        scale = torch.from_numpy(np.where(bits == 8, 257, 1).astype(np.float32)).to(pixels.device)
                        pixels = (pixels.float() / per_sample(scale, pixels)).round().to(torch.uint16)
                    by_view[view] = pixels
            done = self.stream.record_event() if self.stream else None
        return tuple(by_view[view] for view in range(len(request.images))), done

    def decode_alone(self, payload: np.ndarray, side: np.ndarray) -> None:
        """Decode one image of ``side`` (height, width), int32 [2]. Raises RuntimeError if DALI cannot."""
        with ndd.EvalMode.sync_cpu, self.context:
            self._decode([payload], np.zeros((1, 2), np.int32), side[None])

    def _decode(self, payloads: list[np.ndarray], first: np.ndarray, last: np.ndarray) -> ndd.Batch:
        """Return the region from pixel (y, x) = ``first`` up to but excluding ``last``, int32 [b, 2] each, of every
        image."""
        began = perf_counter()
        regions = ndd.decoders.image_slice(
            ndd.as_batch(payloads),
            start=ndd.as_batch(first),
            end=ndd.as_batch(last),
            axis_names="HW",
            device="gpu" if self.stream else "cpu",
            output_type=self.colours,
            dtype=self.dtype,
            adjust_orientation=False,  # crops are drawn for the pixels as stored
        )
        self.seconds.add(decode=perf_counter() - began)
        return regions

    def _resize(self, regions: ndd.Batch, start: np.ndarray, shape: np.ndarray, flip: np.ndarray, side: int) -> Tensor:
        """Return the crop at (y, x) = ``start`` of (h, w) = ``shape``, int32 [b, 2] each, of every region, mirrored
        along the axes of ``flip`` bool [b, 2] and resized to ``side``: [b, C, S, S]."""
        began = perf_counter()
        # A region of interest of resize() itself would let pixels beyond the crop contribute.
        crops = ndd.slice(
            regions, start=ndd.as_batch(start), shape=ndd.as_batch(np.ascontiguousarray(shape)), axis_names="HW"
        )
        size = np.where(flip, -side, side).astype(np.float32)  # DALI mirrors an axis of negative size
        resized = ndd.resize(crops, size=ndd.as_batch(size), interp_type=types.INTERP_TRIANGULAR)
        pixels = torch.from_dlpack(ndd.as_tensor(resized)).permute(0, 3, 1, 2)
        self.seconds.add(transform=perf_counter() - began)
        # DALI reuses GPU memory in the order of its own stream; torch's allocator can follow the consumer's.
        return pixels.clone() if self.stream else pixels


def hand_over(views: tuple[Tensor, ...], done: torch.cuda.Event | None) -> None:
    """Let the current stream of the views' device wait for them; their memory is reused only when it has read them."""
    if done is not None:
        consumer = torch.cuda.current_stream(views[0].device)
        consumer.wait_event(done)
        for view in views:
            view.record_stream(consumer)


class DaliLoader(CpuLoader):
    """Batches of 2D images (see ``loaders.Loader``).

    Pixels are those of ``CpuLoader`` up to DALI's resampling: the same triangular filter, but at a crop's edges it
    repeats the last pixel where Pillow gives the others more weight, and JPEGs are always decoded at full scale.

    Raises UserError as the CPU loader does, and for volumes, other than 1 or 3 channels, or a codec that DALI does not
    read.
    """

    def __init__(self, spec: LoaderSpec) -> None:
        super().__init__(spec)
        if self.samples.dimensions != 2:
            raise ValueError("dali reads images, and these shards hold volumes: use cpu")
        if self.samples.channels not in COLOURS:
            raise ValueError(f"dali reads images of 1 or 3 channels, these have {self.samples.channels}: use cpu")
        stored = stored_codecs(spec.datasets)
        if unread := ", ".join(sorted(stored - CODECS)):
            raise DatasetError(f"DALI does not read codec {unread} of {spec.datasets[0].root}", lacks="codec")
        slow = ", ".join(sorted(stored - set(codecs.DECODED_ON_GPU)))
        if slow and self.copies.device.type == "cuda":
            logger.warning("%s has no GPU decoder, so DALI decodes it on CPU threads; faster: %s", slow, AGAIN)
        self._views: DaliViews | None = None  # of the last iteration, with DALI's threads, stream and decoders

    def _host_batches(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """Batches whose views are where they are wanted; ``copies`` brings the rest."""
        readers = ThreadPoolExecutor(min(self.workers, READERS), thread_name_prefix="loader")
        maker = ThreadPoolExecutor(1, thread_name_prefix="loader-dali")
        kept, self._views = self._views, None  # one thread at a time may use them
        views = kept or DaliViews(self.samples, self.requests.views, self.copies.device, self.workers, self.seconds)
        pending: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
        requests = self.requests.of(range(start_step, stop_step))
        try:
            for _ in range(start_step, stop_step):
                began = perf_counter()
                for request in islice(requests, self.prefetch + 1 - len(pending)):
                    images = np.unique(np.concatenate(request.images))
                    # Several samples per task, several tasks per thread.
                    parts = np.array_split(images, 4 * self.workers)
                    reading = [readers.submit(self._read, part) for part in parts if len(part)]
                    masks = self._begin_masks(request, readers)
                    pending.append(maker.submit(self._make, request, reading, masks, views))
                batch, done = pending.popleft().result()
                hand_over(batch.views, done)
                self.seconds.add(wait=perf_counter() - began)
                yield batch
        finally:
            maker.shutdown(cancel_futures=True)  # first: it waits for what the others read
            readers.shutdown(cancel_futures=True)
        self._views = views  # for the next validation, but not after an error

    def _begin_masks(self, request: Request, readers: ThreadPoolExecutor) -> Masks:
        if not self.masks:
            return None, []
        mask = self.requests.empty_mask(request, pinned=self.copies.pinned)

        def fill(samples: Sequence[int]) -> None:
            for i in samples:
                fill_masks(mask[i].numpy(), self.reader, request, i)

        return mask, [readers.submit(fill, samples) for samples in self._tasks(request)]

    def _read(self, images: np.ndarray) -> Payloads:
        began = perf_counter()
        payloads, encoded = {}, dict[int, memoryview]()
        for run in self.reader.neighbours(images.tolist()):
            encoded |= self.reader.payloads(run, np.empty)
        for image in images.tolist():
            payload = encoded[image] if image in encoded else self.reader.payload(image)
            try:
                headers.check(payload, self.samples.codec(image), self.samples.shape(image))
            except (ValueError, RuntimeError) as error:
                raise self.samples.damaged(image, error) from error
            # DALI takes writable memory as it is; read-only bytes it would copy in the one thread that keeps it busy.
            payloads[image] = np.frombuffer(payload, np.uint8)
        self.seconds.add(read=perf_counter() - began)
        return payloads

    def _make(
        self, request: Request, reading: Sequence[Future[Payloads]], masks: Masks, views: DaliViews
    ) -> tuple[Batch, torch.cuda.Event | None]:
        """Return the batch of ``request``, and the event after which its views are there."""
        if len(request) == 0:
            return self.requests.batch(request, self.requests.empty_views(request, pinned=False), masks[0]), None
        payloads = {image: payload for part in reading for image, payload in part.result().items()}
        try:
            pixels, done = views.make(request, payloads)
        except RuntimeError as error:
            raise self._named(payloads, views, error) from error
        mask, parts = masks
        for part in parts:
            part.result()
        return self.requests.batch(request, pixels, mask), done

    def _named(self, payloads: Payloads, views: DaliViews, error: RuntimeError) -> UserError:
        """Return the error that names the sample which DALI refuses: its own is about a batch."""
        images = np.fromiter(payloads, np.int64)
        sides = np.stack([self.samples.column(name, images) for name in ("height", "width")], 1).astype(np.int32)
        for image, side in zip(payloads, sides, strict=True):
            try:
                views.decode_alone(payloads[image], side)
            except RuntimeError as cause:
                return self.samples.damaged(image, codecs.DecodeError(f"DALI does not decode it: {cause}"))
        return UserError(f"DALI failed ({error}), although each image of the batch can be decoded: use fewer images "
                         "per process, or the loader cpu")  # fmt: skip
