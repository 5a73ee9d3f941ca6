"""The samples that a loader reads: one split of one or several datasets, counted through."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
import xxhash

from dira_scale.data.labels import Columns
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.manifest.dataset import CHECKSUM, ReadInto
from dira_scale.data.manifest.index import SIDES
from dira_scale.data.views import ViewSpec
from dira_scale.errors import DatasetError
from dira_scale.pixels.arena import Allocate, Arena
from dira_scale.pixels.boxes import Crop, PixelSlices
from dira_scale.pixels.bricks import BrickError, Bricks
from dira_scale.pixels.codecs import DecodeError, decode
from dira_scale.pixels.crops import darkest, fill, fill_from_bricks
from dira_scale.pixels.headers import Payload

T = TypeVar("T")
LOOKED_AT = 256  # masks, for the values in them
_PAYLOAD = Arena()  # of the sample that a thread fills its views from


class Samples:
    """Sample ``sum(sizes[:d]) + r`` is row r of ``split`` in dataset d. Reading is thread-safe.

    Nothing is copied per sample: columns stay the datasets' own, and are looked up batch by batch.

    Attributes:
        datasets, split, views: the arguments.
        chosen: which labels; None: all, where the datasets have the same.
        views: whose ``range`` and ``pad`` hold; None: those of ``ViewSpec`` by default.
        sizes: rows of the split, for each dataset.
        rows: of the split, int64, for each dataset.
        dimensions: of every sample: 2 for images, 3 for volumes.
        channels: of every sample.
        dtype: of the stored pixels: of images uint8, or uint16 if any has 16 bits; of volumes int16.
        stored: the bytes of an image, by its dataset's number and its row there, in memory that the third argument
            makes; a cache may stand before the dataset.
        stored_mask: the bytes of its mask, None without one; likewise.
        opened: the shard of a volume in bricks, likewise: fills a buffer from an offset, returns how many bytes it got.
        renewed: has that shard fetched again, after a brick was damaged; false where it cannot be.

    Raises DatasetError when the datasets differ in dimensions or channels, or have no sample in ``split``.
    """

    def __init__(
        self,
        datasets: Sequence[ShardedDataset],
        split: str,
        chosen: Columns | None = None,
        views: ViewSpec | None = None,
    ) -> None:
        self.datasets, self.split, self.chosen, self.views = list(datasets), split, chosen, views
        self.dimensions = self.datasets[0].info.dims
        for dataset in self.datasets:
            dataset.require(self.dimensions, f"a mixture with {self.datasets[0].root}")
        self.rows = [dataset.rows(split) for dataset in datasets]
        self.sizes = tuple(map(len, self.rows))
        self._ends = np.cumsum(self.sizes)
        self._ends_list = self._ends.tolist()  # for single samples, where NumPy would take ten times as long
        for dataset, size in zip(datasets, self.sizes, strict=True):
            if size == 0:
                raise DatasetError(f"{dataset.root} has no sample in split '{split}': {dataset.info.counts}")
        self.channels = self._only_channels(split)
        deepest = max(kind.bits for dataset in datasets for kind in dataset.kinds(split))
        self.dtype = torch.int16 if self.dimensions == 3 else torch.uint8 if deepest == 8 else torch.uint16
        self.stored: Callable[[int, int, Allocate], memoryview] = self._stored
        self.stored_mask: Callable[[int, int], Payload | None] = self._stored_mask
        self.opened: Callable[[int, int], AbstractContextManager[ReadInto]] = self._opened
        self.renewed: Callable[[int, int], bool] = lambda dataset, row: False

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the dataset and row in its manifest, int64 [b] each, of samples ``index`` [b]."""
        dataset = np.searchsorted(self._ends, index, side="right")
        row = np.empty(len(index), np.int64)
        for d, rows in enumerate(self.rows):
            here = dataset == d
            row[here] = rows[index[here] - (self._ends[d] - self.sizes[d])]
        return dataset, row

    def column(self, name: str, index: np.ndarray) -> np.ndarray:
        """The manifest's column ``name`` of plain numbers, [b]."""
        dataset, row = self.locate(index)
        columns = [d.column(name) for d in self.datasets]
        values = np.empty(len(index), columns[0].dtype)
        for d, column in enumerate(columns):
            here = dataset == d
            values[here] = column[row[here]]
        return values

    @property
    def channel_names(self) -> list[str]:
        """The names of the channels of the datasets that say them; empty if none does."""
        return next((dataset.info.channels for dataset in self.datasets if dataset.info.channels), [])

    def sides(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        """For each axis the extent [b] of samples ``index`` [b], in pixels: height, width; depth, height, width."""
        return tuple(self.column(name, index) for name in SIDES[self.dimensions])

    def spacing(self, index: np.ndarray) -> np.ndarray:
        """Return the millimetres between pixels of samples ``index`` [b] along each axis, as ``sides``: float64 [b, n];
        NaN = unknown."""
        dataset, row = self.locate(index)
        values = np.empty((len(index), self.dimensions))
        for d in np.unique(dataset):
            values[dataset == d] = self.datasets[d].spacing[row[dataset == d]]
        return values

    def range(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The stored values that become 0 and 1, float32 each, of samples ``index`` [b]: [b], or [b, C] where channels
        have their own; NaN of one that a sample lacks."""
        dataset, row = self.locate(index)
        window, names = None if self.views is None else self.views.range, self.channel_names
        ends = np.empty((2, len(index), *([len(names)] if names else [])), np.float32)
        for d in np.unique(dataset):
            here = dataset == d
            for end, values in zip(ends, self.datasets[d].range(row[here], window), strict=True):
                end[here] = values if values.ndim == end.ndim else values[:, None]  # one for all of older datasets
        return ends[0], ends[1]

    def words(self, name: str, index: np.ndarray) -> list[str]:
        """The manifest's column ``name`` of text that repeats (``codec``, ``shard``), [b]."""
        coded = [d.codes(name) for d in self.datasets]
        dataset, row = self.locate(index)
        return [coded[d][1][coded[d][0][r]] for d, r in zip(dataset.tolist(), row.tolist(), strict=True)]

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """Labels as yes and no (``ShardedDataset.flags``), float32 [b, F], NaN = unknown: the ``chosen`` ones. None if
        none were chosen and the datasets have none, or different ones."""
        names = {tuple(flag.name for flag in dataset.info.flags) for dataset in self.datasets}
        if self.chosen is None and (names == {()} or len(names) > 1):
            return None
        dataset, row = self.locate(index)
        width = len(names.pop() if self.chosen is None else self.chosen.names)
        values = np.empty((len(index), width), np.float32)
        for d, part in enumerate(self.datasets):
            here = dataset == d
            flags = part.flags(row[here])
            values[here] = flags if self.chosen is None else flags[:, list(self.chosen.columns[d])]
        return values

    def groups(self, column: str) -> np.ndarray:
        """For every sample a number of its ``patient`` or ``study``, int64 [n]; those of two datasets are different
        ones, and without one a sample is alone."""
        numbers, first = [], 0
        for dataset, rows in zip(self.datasets, self.rows, strict=True):
            table = dataset.manifest.table(["key", column])
            coded = pc.coalesce(table[column], table["key"]).combine_chunks().dictionary_encode()
            numbers.append(coded.indices.to_numpy()[rows].astype(np.int64) + first)
            first += len(coded.dictionary)
        return np.concatenate(numbers)

    def codec(self, sample: int) -> str:
        """Return the codec of one image."""
        dataset, row = self._place(sample)
        codes, names = self.datasets[dataset].codes("codec")
        return names[codes[row]]

    def shape(self, sample: int) -> tuple[int, ...]:
        """Return the shape of one image or volume, as its payload must have it: [H, W] or [H, W, C], [Z, Y, X] or [C,
        Z, Y, X]."""
        dataset, row = self._place(sample)
        return self.datasets[dataset].shape(row)

    def read(self, sample: int, crops: Sequence[Crop], views: Sequence[np.ndarray]) -> tuple[float, float, float]:
        """Write crops of one image or volume into their views [C, *size]; returns the seconds of reading, of decoding
        and of resampling.

        Raises DatasetError, as :meth:`damaged`, where a payload is not what the manifest says.
        """
        if self.codec(sample) == "b2nd":
            cut = partial(fill_from_bricks, crops=crops, views=views, outside=self._outside(sample))
            return self._of_bricks(sample, False, cut)
        began = perf_counter()
        _PAYLOAD.reset()
        payload = self.payload(sample, _PAYLOAD.empty)
        codec, shape = self.codec(sample), self.shape(sample)
        read = perf_counter() - began
        try:
            return read, *fill(payload, codec, crops, views, shape, self._outside(sample))
        except DecodeError as error:
            raise self.damaged(sample, error) from error

    def payload(self, sample: int, new: Allocate = np.empty) -> memoryview:
        """The encoded image, in memory that ``new`` makes.

        Raises DatasetError, as :meth:`damaged`, unless its checksum is the manifest's.
        """
        number, row = self._place(sample)
        try:
            payload = self.stored(number, row, new)
        except OSError as error:
            raise self.damaged(sample, error) from error
        if xxhash.xxh3_64_intdigest(payload) != self.datasets[number].checksums[row]:
            raise self.damaged(sample, DecodeError(CHECKSUM))
        return payload

    def mask_values(self, chosen: np.ndarray) -> tuple[set[int], int]:
        """The values above 0 in some masks of the ``chosen`` samples, spread over them, and in how many."""
        has_mask = [dataset.has_mask(rows) for dataset, rows in zip(self.datasets, self.rows, strict=True)]
        masked = chosen[np.concatenate(has_mask)[chosen]]
        some = masked[np.unique(np.linspace(0, len(masked) - 1, min(LOOKED_AT, len(masked))).astype(int))]
        values = [np.unique(mask) for sample in some.tolist() if (mask := self.mask(sample)) is not None]
        return {int(value) for part in values for value in part} - {0}, len(values)

    def mask(self, sample: int) -> np.ndarray | None:
        """The values of the mask, uint8 [*sides]; None without one. Raises DatasetError, as :meth:`mask_parts`."""
        whole = tuple(slice(0, side) for side in self.mask_sides(sample))
        parts = self.mask_parts(sample, [whole])
        return None if parts is None else parts[0]

    def mask_parts(self, sample: int, parts: Sequence[PixelSlices]) -> list[np.ndarray] | None:
        """Parts of the mask in whole pixels, the values uint8 of each; None without a mask.

        Raises DatasetError, as :meth:`damaged`, where it is broken or of another size than the image.
        """
        number, row = self._place(sample)
        if not self.datasets[number].has_mask(row):
            return None
        if self.dimensions == 3:
            return self._of_bricks(sample, True, lambda bricks: [part[0] for part in bricks.cut(parts)])
        try:
            payload = self.stored_mask(number, row)
            assert payload is not None
            values = decode(payload, "png", self.mask_sides(sample))
        except (OSError, DecodeError) as error:
            raise self.damaged(sample, error, mask=True) from error
        return [values[part] for part in parts]

    def mask_sides(self, sample: int) -> tuple[int, ...]:
        """Return the sides of one image's mask, in pixels."""
        number, row = self._place(sample)
        return self.datasets[number].sides(row)

    def _of_bricks(self, sample: int, mask: bool, cut: Callable[[Bricks], T]) -> T:
        """Apply ``cut`` to the bricks of a volume, or its mask. Raises DatasetError, as :meth:`damaged`."""
        number, row = self._place(sample)

        def attempt() -> T:
            with self.opened(number, row) as read_into:
                return cut(self.datasets[number].bricks(row, mask, read_into))

        try:
            try:
                return attempt()
            except BrickError:
                if not self.renewed(number, row):
                    raise
                return attempt()
        except (OSError, BrickError, DecodeError) as error:
            raise self.damaged(sample, error, mask) from error

    def _outside(self, sample: int) -> np.ndarray | None:
        """The stored value of what lies beyond a volume, or of each channel, which becomes 0; None: nothing may."""
        if self.views is None or not self.views.pad:
            return None
        return darkest(self.range(np.array([sample]))[0][0])

    def require_masks(self) -> None:
        """Raise DatasetError unless each dataset has a mask in the split."""
        for dataset, rows in zip(self.datasets, self.rows, strict=True):
            if not dataset.has_mask(rows).any():
                raise DatasetError(f"{dataset.root}: no sample in split '{self.split}' has a mask", lacks="masks")

    def name(self, sample: int | np.integer) -> str:
        """Return a sample's dataset and key, for messages."""
        number, row = self._place(int(sample))
        return f"{self.datasets[number].root}: sample {self.datasets[number].cell('key', row)}"

    def damaged(self, sample: int, cause: Exception | str, mask: bool = False) -> DatasetError:
        """The error that says where a sample, or its ``mask``, lies that cannot be read."""
        number, row = self._place(sample)
        return self.datasets[number].damaged(row, cause, mask)

    def _stored(self, dataset: int, row: int, new: Allocate) -> memoryview:
        return self.datasets[dataset].read_into(row, new)

    def _opened(self, dataset: int, row: int) -> AbstractContextManager[ReadInto]:
        return nullcontext(self.datasets[dataset].reader(row))

    def _stored_mask(self, dataset: int, row: int) -> Payload | None:
        return self.datasets[dataset].read_mask(row)

    def _place(self, sample: int) -> tuple[int, int]:
        dataset = bisect_right(self._ends_list, sample)
        return dataset, int(self.rows[dataset][sample - self._ends_list[dataset] + self.sizes[dataset]])

    def _only_channels(self, split: str) -> int:
        channels: dict[int, object] = {}
        for dataset in self.datasets:
            channels |= {kind.channels: dataset.root for kind in dataset.kinds(split)}
        if len(channels) > 1:
            listed = " and ".join(f"{c} in {root}" for c, root in sorted(channels.items()))
            raise DatasetError(f"images differ in their number of channels ({listed}): shard all with the same number")
        named = {", ".join(dataset.info.channels): dataset.root for dataset in self.datasets if dataset.info.channels}
        if len(named) > 1:
            listed = " and ".join(f"{names} in {root}" for names, root in named.items())
            raise DatasetError(f"images differ in their channels ({listed}): shard all with the same, in one order")
        return next(iter(channels))


def stored_codecs(datasets: Sequence[ShardedDataset]) -> set[str]:
    """The codecs of all images."""
    return {kind.codec for dataset in datasets for split in dataset.splits for kind in dataset.kinds(split)}
