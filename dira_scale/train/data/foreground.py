"""Draw a voxel of one of a volume's classes, which its crop is to show."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest.foreground import FOREGROUND_FILE, open_foreground
from dira_scale.dataset.manifest.parquet import identity_of
from dira_scale.train.data import random
from dira_scale.train.data.mapped import Write, mapped_once
from dira_scale.train.data.samples import Samples

ROWS = 2**10  # whose voxels are read at a time


class Foreground:
    """The voxels of each class that ``foreground.parquet`` has of ``samples``, volumes.

    A file of the node, which is mapped, has 4 bytes a voxel, 12 a class of a volume and 8 a sample.

    Args:
        classes: the values in masks whose voxels are drawn; None: all.

    Attributes:
        identity: names the content.

    Raises DatasetError for a dataset without that file, for one with voxels outside their volumes, and where no volume
    has one of ``classes``.
    """

    def __init__(self, samples: Samples, classes: Collection[int] | None = None) -> None:
        self.samples = samples
        size, files = 0, list[str]()
        for dataset in samples.datasets:
            with open_foreground(dataset.root) as parquet:
                groups = map(parquet.metadata.row_group, range(parquet.num_row_groups))
                size += sum(group.total_byte_size for group in groups)
                files.append(identity_of(dataset.root / FOREGROUND_FILE))
        values = None if classes is None else sorted(map(int, classes))
        of = [[dataset.identity for dataset in samples.datasets], samples.split, files, values]

        def make(write: Write) -> dict[str, Any]:
            # Voxels as they come, and where those of each class of each sample are: of sample s the classes from
            # ends[s] to ends[s + 1] - 1.
            rows = [_samples_of(samples, number, values) for number in range(len(samples.datasets))]
            sample = np.concatenate(rows)
            sample, counts = sample[sample >= 0], list[np.ndarray]()
            if not len(sample):
                roots = ", ".join(str(dataset.root) for dataset in samples.datasets)
                where = f"no volume in split '{samples.split}' of {roots}"
                raise DatasetError(f"{where} has a voxel of a class that is learned")
            voxels, order = write("voxels", _voxels(samples, rows, counts)), np.argsort(sample, kind="stable")
            count = np.concatenate(counts)
            start, count = (np.cumsum(count, dtype=np.int64) - count)[order], count[order]
            write("starts", [start])
            write("counts", [count])
            write("ends", [np.cumsum(np.bincount(sample + 1, minlength=len(samples) + 1))])
            digest = xxhash.xxh3_128(sample[order].tobytes() + count.tobytes())
            for first, size in zip(start, count, strict=True):
                digest.update(voxels[first : first + size].data)
            return {"identity": digest.hexdigest()}

        mapped = mapped_once("foreground", of, size, make)
        self._ends, self._counts = mapped["ends"], mapped["counts"]
        self._starts, self._voxels = mapped["starts"], mapped["voxels"]
        self.identity: str = mapped.facts["identity"]

    def draw(self, index: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return a voxel of each of the samples ``index`` [b] by ``u`` [b, 2]: of a class drawn evenly, drawn evenly.
        float64 [b, 3], (z, y, x); NaN for a sample without one."""
        voxel, known = np.full((len(index), 3), np.nan), self._ends[index] < self._ends[index + 1]
        index, u = index[known], u[known]
        of_class = random.integers(u[:, 0], self._ends[index], self._ends[index + 1] - 1)
        place = self._starts[of_class] + random.integers(u[:, 1], 0, self._counts[of_class] - 1)
        row, x = np.divmod(self._voxels[place].astype(np.int64), self.samples.column("width", index))
        voxel[known] = np.stack((*np.divmod(row, self.samples.column("height", index)), x), 1)
        return voxel


def _samples_of(samples: Samples, number: int, classes: Sequence[int] | None) -> np.ndarray:
    """Return the sample of each row of a dataset's file, int64; -1: it is another split's or class's."""
    dataset, rows = samples.datasets[number], samples.rows[number]
    with open_foreground(dataset.root) as parquet:
        table = parquet.read(["key", "value"])
    keys = dataset.manifest.table(["key"])["key"].take(pa.array(rows)).combine_chunks()
    place = pc.fill_null(pc.index_in(table["key"], value_set=keys), -1).to_numpy()
    learned = place >= 0
    if classes is not None:
        learned &= pc.is_in(table["value"], value_set=pa.array(classes, pa.uint8())).to_numpy()
    return np.where(learned, place.astype(np.int64) + sum(samples.sizes[:number]), -1)


def _voxels(samples: Samples, rows: Sequence[np.ndarray], counts: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the voxels of the rows that have a sample, and add how many each has to ``counts``."""
    for dataset, of_row in zip(samples.datasets, rows, strict=True):
        start = 0
        with open_foreground(dataset.root) as parquet:
            for batch in parquet.iter_batches(ROWS, columns=["voxels"]):
                sample = of_row[start : (start := start + len(batch))]
                lists, sample = batch["voxels"].filter(pa.array(sample >= 0)), sample[sample >= 0]
                values, count = lists.flatten(), pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
                sizes = np.prod([side.astype(np.int64) for side in samples.sides(sample)], 0)
                within = values.null_count == 0 and (values.to_numpy() < np.repeat(sizes, count)).all()
                if not within or not (count > 0).all():
                    roots = ", ".join(str(dataset.root / FOREGROUND_FILE) for dataset in samples.datasets)
                    advice = "copy it again from its origin, or shard again"
                    raise DatasetError(f"{roots}: a voxel is outside its volume: {advice}")
                counts.append(count)
                yield values.to_numpy()
