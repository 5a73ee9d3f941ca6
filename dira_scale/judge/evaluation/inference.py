"""Images and volumes as shards have them, and their probabilities: seen as one view, or through overlapping windows."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from etils.epy import lazy_imports
from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.dataset.pixels.crops import darkest, fill
from dira_scale.dataset.pixels.headers import Payload
from dira_scale.dataset.pixels.limits import MAX_VOXELS
from dira_scale.judge.evaluation.config import CENTRE, SLIDING
from dira_scale.train.data.batch import unit_interval
from dira_scale.train.data.geometry.fixed import FixedCrop, centre, ten_crops
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.workers import shared

with lazy_imports():
    from monai import inferers

CPU = torch.device("cpu")
OVERLAP = 0.5  # of neighbouring windows, whose edges count less (MONAI's mode "gaussian")
LINEAR = {2: "bilinear", 3: "trilinear"}  # by dimensions
Predicted = Callable[[Tensor], Tensor]  # [b, C, *size] in [0, 1] -> probabilities [b, K, *size] or [b, K]
Item = TypeVar("Item")
Read = TypeVar("Read")


def held_out_crops(size: tuple[int, ...], crops: str, share: float) -> tuple[FixedCrop, ...]:
    """Return the crops of views of ``size``: shares of the sides of images, the view's voxels of volumes."""
    chosen = centre if crops == CENTRE else ten_crops
    return chosen(len(size), share, size if len(size) == 3 else None)


@dataclass(frozen=True)
class Stored:
    """An image or a volume. ``shape`` and ``codec`` are of its payload; ``low`` and ``high`` become 0 and 1.

    Attributes:
        low, high: float32, of all its channels, or [C] (``ShardedDataset.range``).
        bits: of an image's value, 8 or 16; volumes have 16, of which one is the sign.
        spacing: of its pixels, in mm; None: unknown.
        step: for each axis, how many of its pixels a network's pixel covers; None: 1.
        pad: whether crops may reach beyond it, where it is 0.
    """

    payload: Payload
    codec: str
    shape: tuple[int, ...]
    dimensions: int
    low: np.ndarray | float
    high: np.ndarray | float
    spacing: Sequence[float] | None = None
    step: Sequence[float] | None = None
    pad: bool = False
    bits: int = 16

    @classmethod
    def of(cls, reader: SampleReader, sample: int) -> "Stored":
        """Raises UserError as :meth:`SampleReader.payload`."""
        samples = reader.samples
        (low,), (high,) = samples.range(np.array([sample]))
        about = samples.codec(sample), samples.shape(sample), samples.dimensions
        spacing = samples.spacing(np.array([sample]))[0].tolist() if samples.dimensions == 3 else None
        bits = int(samples.column("bits", np.array([sample]))[0])
        return cls(reader.payload(sample), *about, low, high, spacing, bits=bits)

    def seen(
        self, spacing: float | Sequence[float] | None = None, range: Sequence[float] | None = None, pad: bool = False
    ) -> "Stored":
        """Return it as such views (``ViewSpec``) see it. Raises UserError for ``spacing`` if its own is unknown."""
        low, high = self.low, self.high
        if range is not None:
            low, high = (np.where(np.isnan(low), low, np.float32(end)) for end in range)
        step = None
        if spacing is not None:
            if self.spacing is None or not min(self.spacing) > 0:
                raise UserError(f"data.spacing={spacing}: a volume's spacing is unknown: give volumes that have it")
            step = (np.array(spacing) / self.spacing).tolist()
            if np.prod(np.array(self.sides) / step) > MAX_VOXELS:
                raise UserError(f"data.spacing={spacing}: a volume would have more than {MAX_VOXELS:,} voxels")
        return replace(self, low=low, high=high, step=step, pad=pad)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"payload": bytes(self.payload)}  # crosses processes

    @property
    def sides(self) -> tuple[int, ...]:
        return self.shape[:2] if self.dimensions == 2 else self.shape[-3:]

    @property
    def channels(self) -> int:
        if len(self.shape) == self.dimensions:
            return 1
        return self.shape[-1] if self.dimensions == 2 else self.shape[0]

    def cropped(self, crop: FixedCrop, size: tuple[int, ...]) -> np.ndarray:
        """The stored values [C, *size], cropped and resized as loaders do it: uint8 or uint16, or int16 of a volume.
        Raises DecodeError."""
        kind = np.int16 if self.dimensions == 3 else np.uint8 if self.bits == 8 else np.uint16
        view = np.empty((self.channels, *size), kind)
        geometry = crop.of(np.array([self.sides]), None if self.step is None else np.array([self.step]))
        beyond = darkest(self.low) if self.pad else None
        fill(self.payload, self.codec, [geometry.crop(0)], [view], self.shape, beyond)
        return view

    def view(self, crop: FixedCrop, size: tuple[int, ...]) -> Tensor:
        """float32 [C, *size] in [0, 1], cropped and resized as loaders do it. Raises DecodeError."""
        return self._scaled(self.cropped(crop, size))

    def image(self) -> Tensor:
        """float32 [C, *sides] in [0, 1]; with ``step`` of as many network's pixels. Raises DecodeError."""
        if self.step is not None:
            sides = np.rint(np.array(self.sides) / self.step).astype(int).clip(1)
            return self.view(centre(self.dimensions)[0], tuple(sides.tolist()))
        pixels = decode(self.payload, self.codec, self.shape)
        if self.dimensions == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, -1, 0)
        return self._scaled(pixels.reshape(self.channels, *self.sides))

    def shown(self) -> np.ndarray:
        """float32 [*sides] in [0, 1], without ``step``: the mean over channels; of an image in colour [*sides, 3].
        Raises DecodeError."""
        image = replace(self, step=None).image()
        colour = self.dimensions == 2 and self.channels == 3
        return np.asarray((image.movedim(0, -1) if colour else image.mean(0)).numpy())

    def _scaled(self, pixels: np.ndarray) -> Tensor:
        values, *ends = (torch.from_numpy(np.asarray(each, np.float32)[None]) for each in (pixels, self.low, self.high))
        return unit_interval(values, *ends)[0]


def dense(
    network: Predicted, stored: Stored, size: tuple[int, ...], window: str, device: torch.device, batch: int = 4
) -> Tensor:
    """Probabilities float32 [K, *sides] of every pixel as it is stored, on the CPU.

    ``whole``: of the whole image resized to ``size``, resized linearly to the image's sides. ``sliding``: of windows of
    ``size`` over the image as it is stored, or in the network's spacing, ``batch`` at a time, which overlap by half;
    they are added up on ``device``, or on the CPU if the sums are too large for it.
    """
    if window == SLIDING:
        image, outputs = stored.image()[None], 0
        if device.type != CPU.type:
            outputs = network(image.new_zeros((1, image.shape[1], *size), device=device)).shape[1]
        return resized(windowed(network, image, size, batch, device, outputs), stored.sides)
    (crop,) = centre(stored.dimensions)
    return resized(network(stored.view(crop, size)[None].to(device))[0].cpu(), stored.sides)


def windowed(
    network: Predicted, image: Tensor, size: tuple[int, ...], batch: int, device: torch.device, outputs: int
) -> Tensor:
    """Return the probabilities [K, *sides] of ``image`` [1, C, *sides], on the CPU: of windows that overlap by half,
    ``batch`` at a time. ``outputs``: K, by which is known whether their sums have room on a GPU."""
    where = CPU
    if device.type != CPU.type:  # several processes have cpu:0
        padded = [*map(max, image.shape[2:], size)]
        where = device if fits((image.shape[1] + outputs + 1) * math.prod(padded), device) else CPU
    inferer = inferers.SlidingWindowInferer(size, batch, OVERLAP, "gaussian", sw_device=device, device=where)
    return inferer(image.to(where), network)[0].cpu()


def fits(values: int, device: torch.device) -> bool:
    """Return whether so many float32 ``values`` take at most half of the memory that is free on the GPU ``device``:
    windows and the network's maps need some, too."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next tensors
    return 4 * values <= (torch.cuda.mem_get_info(device)[0] + kept) // 2


def resized(probabilities: Tensor, sides: Sequence[int]) -> Tensor:
    """[K, *size] -> [K, *sides], linearly, edge to edge."""
    if tuple(probabilities.shape[1:]) == tuple(sides):
        return probabilities
    return F.interpolate(probabilities[None], tuple(sides), mode=LINEAR[len(sides)], align_corners=False)[0]


def read_ahead(
    read: Callable[[Item], Read], items: Iterable[Item], workers: int, device: torch.device = CPU
) -> Iterator[Read]:
    """Yield ``read`` of each item, in their order, by threads at most ``workers`` items ahead; beside a GPU by
    processes, which leave the interpreter to what launches. What they read and return is pickled."""
    if device.type == "cuda":
        yield from shared(workers).map(read, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque[Future[Read]]()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
