"""The samples of one split of one or several datasets, counted through: their rows and columns.

``reader.py`` reads their pixels.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.train.data.labels import Columns
from dira_scale.train.data.views import ViewSpec


class Samples:
    """Sample ``sum(sizes[:d]) + r`` is row r of ``split`` in dataset d. Thread-safe.

    Nothing is copied per sample: columns stay the datasets' own, and are looked up batch by batch.

    Attributes:
        datasets, split: the arguments.
        chosen: which labels; None: all, where the datasets have the same.
        views: whose ``range`` and ``pad`` hold; None: those of ``ViewSpec`` by default.
        sizes: rows of the split, for each dataset.
        rows: of the split, int64, for each dataset.
        dimensions: of every sample: 2 for images, 3 for volumes.
        channels: of every sample.
        dtype: of the stored pixels: of images uint8, or uint16 if any has 16 bits; of volumes int16.

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
        counts: dict[int, object] = {}
        for dataset in self.datasets:
            counts |= {kind.channels: dataset.root for kind in dataset.kinds(split)}
        if len(counts) > 1:
            listed = " and ".join(f"{count} in {root}" for count, root in sorted(counts.items()))
            raise DatasetError(f"images differ in their number of channels ({listed}): shard all with the same number")
        named = {", ".join(dataset.info.channels): dataset.root for dataset in self.datasets if dataset.info.channels}
        if len(named) > 1:
            listed = " and ".join(f"{names} in {root}" for names, root in named.items())
            raise DatasetError(f"images differ in their channels ({listed}): shard all with the same, in one order")
        self.channels = next(iter(counts))
        deepest = max(kind.bits for dataset in datasets for kind in dataset.kinds(split))
        self.dtype = torch.int16 if self.dimensions == 3 else torch.uint8 if deepest == 8 else torch.uint16

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of the dataset and the row in its manifest, int64 [b] each, of samples ``index`` [b]."""
        dataset = np.searchsorted(self._ends, index, side="right")
        row = np.empty(len(index), np.int64)
        for d, rows in enumerate(self.rows):
            here = dataset == d
            row[here] = rows[index[here] - (self._ends[d] - self.sizes[d])]
        return dataset, row

    def _by_dataset(self, index: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the number of each dataset of samples ``index`` [b], which of them it has, bool [b], and their rows."""
        dataset, row = self.locate(index)
        for d in range(len(self.datasets)):
            if (here := dataset == d).any():
                yield d, here, row[here]

    def place(self, sample: int) -> tuple[int, int]:
        """Return the number of one sample's dataset, and its row in the manifest."""
        dataset = bisect_right(self._ends_list, sample)
        return dataset, int(self.rows[dataset][sample - self._ends_list[dataset] + self.sizes[dataset]])

    def column(self, name: str, index: np.ndarray) -> np.ndarray:
        """Return the manifest's column ``name`` of plain numbers, [b]."""
        values = np.empty(len(index), self.datasets[0].column(name).dtype)
        for d, here, rows in self._by_dataset(index):
            values[here] = self.datasets[d].column(name)[rows]
        return values

    def sides(self, index: np.ndarray) -> tuple[np.ndarray, ...]:
        """For each axis the extent [b] of samples ``index`` [b], in pixels: height, width; depth, height, width."""
        return tuple(self.column(name, index) for name in SIDES[self.dimensions])

    def spacing(self, index: np.ndarray) -> np.ndarray:
        """Return the millimetres between pixels of samples ``index`` [b] along each axis, as ``sides``: float64 [b, n];
        NaN = unknown."""
        values = np.empty((len(index), self.dimensions))
        for d, here, rows in self._by_dataset(index):
            values[here] = self.datasets[d].spacing[rows]
        return values

    def range(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values that become 0 and 1, float32 each, of samples ``index`` [b]: [b], or [b, C] where
        channels have their own; NaN of one that a sample lacks."""
        window = None if self.views is None else self.views.range
        names = next((dataset.info.channels for dataset in self.datasets if dataset.info.channels), [])
        ends = np.empty((2, len(index), *([len(names)] if names else [])), np.float32)
        for d, here, rows in self._by_dataset(index):
            for end, values in zip(ends, self.datasets[d].range(rows, window), strict=True):
                end[here] = values if values.ndim == end.ndim else values[:, None]  # one for all of older datasets
        return ends[0], ends[1]

    def labels(self, index: np.ndarray) -> np.ndarray | None:
        """Labels as yes and no (``ShardedDataset.flags``), float32 [b, F], NaN = unknown: the ``chosen`` ones. None if
        none were chosen and the datasets have none, or different ones."""
        names = {tuple(flag.name for flag in dataset.info.flags) for dataset in self.datasets}
        if self.chosen is None and (names == {()} or len(names) > 1):
            return None
        width = len(names.pop() if self.chosen is None else self.chosen.names)
        values = np.empty((len(index), width), np.float32)
        for d, here, rows in self._by_dataset(index):
            flags = self.datasets[d].flags(rows)
            values[here] = flags if self.chosen is None else flags[:, list(self.chosen.columns[d])]
        return values

    def codec(self, sample: int) -> str:
        dataset, row = self.place(sample)
        codes, names = self.datasets[dataset].codes("codec")
        return names[codes[row]]

    def shape(self, sample: int) -> tuple[int, ...]:
        """Return the shape of one image or volume, as its payload must have it: [H, W] or [H, W, C], [Z, Y, X] or [C,
        Z, Y, X]."""
        dataset, row = self.place(sample)
        return self.datasets[dataset].shape(row)

    def mask_sides(self, sample: int) -> tuple[int, ...]:
        """Return the sides of one image's mask, in pixels."""
        number, row = self.place(sample)
        return self.datasets[number].sides(row)

    def require_masks(self) -> None:
        """Raise DatasetError unless each dataset has a mask in the split."""
        for dataset, rows in zip(self.datasets, self.rows, strict=True):
            if not dataset.has_mask(rows).any():
                raise DatasetError(f"{dataset.root}: no sample in split '{self.split}' has a mask", lacks="masks")

    def name(self, sample: int | np.integer) -> str:
        """Return a sample's dataset and key, for messages."""
        number, row = self.place(int(sample))
        return f"{self.datasets[number].root}: sample {self.datasets[number].cell('key', row)}"

    def damaged(self, sample: int, cause: Exception | str, mask: bool = False) -> DatasetError:
        """Return the error that says where a sample, or its ``mask``, lies that cannot be read."""
        number, row = self.place(sample)
        return self.datasets[number].damaged(row, cause, mask)


def stored_codecs(datasets: Sequence[ShardedDataset]) -> set[str]:
    return {codec for dataset in datasets for codec in dataset.codecs}
