"""Crops of whole batches by NVIDIA DALI: decoded, resized and flipped, on a GPU's own stream or on CPU threads.

DALI's dynamic mode calls operations as functions: no graph is built, no Python runs per sample, and any order, batch
size or combination of views is the same code.
"""

import os
from collections.abc import Mapping
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import per_sample
from dira_scale.data.requests import Request
from dira_scale.data.samples import Samples
from dira_scale.data.stage_seconds import StageSeconds
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.machine.inventory import dali_extra, install_command

try:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # DALI's JPEG 2000 decoder for CPUs warns at every image
    import nvidia.dali.experimental.dynamic as ndd
    from nvidia.dali import types
except ImportError as error:
    raise UserError(f"data.loader=dali needs NVIDIA DALI ({error}): {install_command(dali_extra())}") from error

COLOURS = {1: types.GRAY, 3: types.RGB}  # by channels; any other request crashes DALI's JPEG decoder for CPUs
Payloads = Mapping[int, np.ndarray]  # encoded bytes, uint8 and writable, by sample


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
        made: dict[int, Tensor] = {}
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
                    made[view] = self._stored_values(pixels, images)
            done = self.stream.record_event() if self.stream else None
        return tuple(made[view] for view in range(len(request.images))), done

    def decode_alone(self, payload: np.ndarray, side: np.ndarray) -> None:
        """Decode one image of ``side`` (height, width), int32 [2]. Raises RuntimeError if DALI cannot."""
        with ndd.EvalMode.sync_cpu, self.context:
            self._decode([payload], np.zeros((1, 2), np.int32), side[None])

    def _decode(self, payloads: list[np.ndarray], first: np.ndarray, last: np.ndarray) -> ndd.Batch:
        """The region from pixel (y, x) = ``first`` up to but excluding ``last``, int32 [b, 2] each, of every image."""
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
        """The crop at (y, x) = ``start`` of (h, w) = ``shape``, int32 [b, 2] each, of every region, mirrored
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

    def _stored_values(self, pixels: Tensor, images: np.ndarray) -> Tensor:
        """8-bit images among 16-bit ones: DALI scales them by 257 to the range of 16 bits."""
        if pixels.dtype == torch.uint8 or (bits := self.samples.column("bits", images)).min() == 16:
            return pixels
        scale = torch.from_numpy(np.where(bits == 8, 257, 1).astype(np.float32)).to(pixels.device)
        return (pixels.float() / per_sample(scale, pixels)).round().to(torch.uint16)


def hand_over(views: tuple[Tensor, ...], done: torch.cuda.Event | None) -> None:
    """Let the current stream of the views' device wait for them; their memory is reused only when it has read them."""
    if done is not None:
        consumer = torch.cuda.current_stream(views[0].device)
        consumer.wait_event(done)
        for view in views:
            view.record_stream(consumer)
