"""Pixels of samples: payloads and masks from a storage, checked, decoded, and cut into views."""

from collections.abc import Callable, Sequence
from contextlib import suppress
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
_RUN = Arena()  # of several
GAP = 2**16  # bytes between neighbours, read with them: that takes less time than another request
MOST = 2**22  # bytes of a thread's read


class SampleReader:
    """Reads ``samples`` from ``storage``; None: from the datasets' own shards. Thread-safe.

    All methods raise DatasetError, as ``Samples.damaged``, for what cannot be read.

    Attributes:
        near: how far apart the numbers of samples are that may be neighbours; others are not looked at.
    """

    near = 8

    def __init__(self, samples: Samples, storage: Storage | None = None) -> None:
        self.samples, self.storage = samples, storage or ShardFiles(samples.datasets)

    def read(
        self, sample: int, crops: Sequence[Crop], views: Sequence[np.ndarray], payload: memoryview | None = None
    ) -> tuple[float, float, float]:
        """Write crops of one image or volume into their views [C, *size]; returns the seconds of reading, of decoding
        and of resampling. ``payload``: of the image, if it has been read."""
        codec = self.samples.codec(sample)
        if codec == "b2nd":
            cut = partial(fill_from_bricks, crops=crops, views=views, outside=self._outside(sample))
            return self._of_bricks(sample, False, cut)
        began = perf_counter()
        _PAYLOAD.reset()
        payload = self.payload(sample, _PAYLOAD.empty) if payload is None else payload
        shape = self.samples.shape(sample)
        read = perf_counter() - began
        try:
            return read, *fill(payload, codec, crops, views, shape, self._outside(sample))
        except DecodeError as error:
            raise self.samples.damaged(sample, error) from error

    def neighbours(self, samples: Sequence[int]) -> list[list[int]]:
        """Divide ``samples``, in ascending order, into those that one read gets: images beside each other in a
        shard."""
        runs: list[list[int]] = []
        for sample in samples:
            if runs and sample - runs[-1][-1] <= self.near and self.adjoins(runs[-1], sample):
                runs[-1].append(sample)
            else:
                runs.append([sample])
        return runs

    def adjoins(self, run: Sequence[int], sample: int) -> bool:
        """Return whether ``sample`` lies behind a ``run`` of neighbours, which with it is not too long."""
        (number, start), (_, before), (other, row) = map(self.samples.place, (run[0], run[-1], sample))
        if number != other or self.samples.dimensions == 3:  # a volume is large, and in bricks
            return False
        first, last, record = self.samples.datasets[number].index.records[[start, before, row]]
        gap = record["offset"] - last["offset"] - last["size"]
        length = record["offset"] + record["size"] - first["offset"]
        return bool(record["shard"] == first["shard"] and 0 <= gap <= GAP and length <= MOST)

    def payloads(self, samples: Sequence[int], new: Allocate = _RUN.empty) -> dict[int, memoryview]:
        """Return the encoded images of several neighbours, by one read; without those that are to be read alone, where
        what is wrong with them is found again."""
        found: dict[int, memoryview] = {}
        if len(samples) == 1:
            return found
        _RUN.reset()
        (number, first), *_ = places = [*map(self.samples.place, samples)]
        records = self.samples.datasets[number].index.records[[row for _, row in places]]
        ends = (records["offset"] + records["size"] - records["offset"][0]).tolist()
        buffer, got = new((ends[-1],), np.uint8).data, 0
        with suppress(OSError), self.storage.shard(number, first) as read_into:
            got = read_into(buffer, int(records["offset"][0]))
        for sample, end, size, checksum in zip(samples, ends, records["size"].tolist(), records["xxh3"], strict=True):
            payload = buffer[end - size : end]
            if end <= got and xxhash.xxh3_64_intdigest(payload) == checksum:
                found[sample] = payload
        return found

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
