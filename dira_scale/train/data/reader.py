"""Pixels of samples: payloads and masks from a storage, checked, decoded, and cut into views."""

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import xxhash

from dira_scale.dataset.manifest.dataset import CHECKSUM
from dira_scale.dataset.pixels.arena import Allocate, Arena
from dira_scale.dataset.pixels.boxes import Crop, PixelSlices
from dira_scale.dataset.pixels.bricks import BrickError, Bricks
from dira_scale.dataset.pixels.codecs import DecodeError, decode
from dira_scale.dataset.pixels.crops import darkest, fill, fill_from_bricks
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.storage import ShardFiles, Storage

T = TypeVar("T")
_PAYLOAD = Arena()  # of the sample that a thread fills its views from


class SampleReader:
    """Reads ``samples`` from ``storage``; None: from the datasets' own shards. Thread-safe.

    All methods raise DatasetError, as ``Samples.damaged``, for what cannot be read.
    """

    def __init__(self, samples: Samples, storage: Storage | None = None) -> None:
        self.samples, self.storage = samples, storage or ShardFiles(samples.datasets)

    def read(self, sample: int, crops: Sequence[Crop], views: Sequence[np.ndarray]) -> tuple[float, float, float]:
        """Write crops of one image or volume into their views [C, *size]; returns the seconds of reading, of decoding
        and of resampling."""
        codec = self.samples.codec(sample)
        if codec == "b2nd":
            cut = partial(fill_from_bricks, crops=crops, views=views, outside=self._outside(sample))
            return self._of_bricks(sample, False, cut)
        began = perf_counter()
        _PAYLOAD.reset()
        payload = self.payload(sample, _PAYLOAD.empty)
        shape = self.samples.shape(sample)
        read = perf_counter() - began
        try:
            return read, *fill(payload, codec, crops, views, shape, self._outside(sample))
        except DecodeError as error:
            raise self.samples.damaged(sample, error) from error

    def payload(self, sample: int, new: Allocate = np.empty) -> memoryview:
        """Return the encoded image, in memory that ``new`` makes. Its checksum is the manifest's."""
        number, row = self.samples.place(sample)
        try:
            payload = self.storage.payload(number, row, new)
        except OSError as error:
            raise self.samples.damaged(sample, error) from error
        if xxhash.xxh3_64_intdigest(payload) != self.samples.datasets[number].checksums[row]:
            raise self.samples.damaged(sample, DecodeError(CHECKSUM))
        return payload

    def mask(self, sample: int) -> np.ndarray | None:
        """Return the values of the mask, uint8 [*sides]; None without one."""
        sides = tuple(slice(0, side) for side in self.samples.mask_sides(sample))
        parts = self.mask_parts(sample, [sides])
        return None if parts is None else parts[0]

    def mask_parts(self, sample: int, parts: Sequence[PixelSlices]) -> list[np.ndarray] | None:
        """Parts of the mask in whole pixels, the values uint8 of each; None without a mask.

        Raises DatasetError also for a mask of another size than the image.
        """
        number, row = self.samples.place(sample)
        if not self.samples.datasets[number].has_mask(row):
            return None
        if self.samples.dimensions == 3:
            return self._of_bricks(sample, True, lambda bricks: [part[0] for part in bricks.cut(parts)])
        try:
            values = decode(self.storage.mask(number, row), "png", self.samples.mask_sides(sample))
        except (OSError, DecodeError) as error:
            raise self.samples.damaged(sample, error, mask=True) from error
        return [values[part] for part in parts]

    def _of_bricks(self, sample: int, mask: bool, cut: Callable[[Bricks], T]) -> T:
        """Apply ``cut`` to the bricks of a volume, or its mask; once more where the storage could renew them."""
        number, row = self.samples.place(sample)

        def attempt() -> T:
            with self.storage.shard(number, row) as read_into:
                return cut(self.samples.datasets[number].bricks(row, mask, read_into))

        try:
            try:
                return attempt()
            except BrickError:
                if not self.storage.renew(number, row):
                    raise
                return attempt()
        except (OSError, BrickError, DecodeError) as error:
            raise self.samples.damaged(sample, error, mask) from error

    def _outside(self, sample: int) -> np.ndarray | None:
        """Return the stored value of what lies beyond a volume, or of each channel, which becomes 0; None: nothing
        may."""
        if self.samples.views is None or not self.samples.views.pad:
            return None
        return darkest(self.samples.range(np.array([sample]))[0][0])
