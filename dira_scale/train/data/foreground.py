"""Draw a voxel of one of a volume's classes, which its crop is to show."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest.foreground import FOREGROUND_FILE, read_foreground
from dira_scale.train.data import random
from dira_scale.train.data.samples import Samples


class Foreground:
    """The voxels of each class that ``foreground.parquet`` has of ``samples``, volumes. Memory: 4 bytes a voxel.

    Args:
        classes: the values in masks whose voxels are drawn; None: all.

    Attributes:
        identity: names the content.

    Raises DatasetError for a dataset without that file, for one with voxels outside their volumes, and where no volume
    has one of ``classes``.
    """

    def __init__(self, samples: Samples, classes: Collection[int] | None = None) -> None:
        self.samples = samples
        tables = [self._of(number, classes) for number in range(len(samples.datasets))]
        table = pa.concat_tables(tables).sort_by("sample").combine_chunks()
        if not table.num_rows:
            roots = ", ".join(str(dataset.root) for dataset in samples.datasets)
            raise DatasetError(
                f"no volume in split '{samples.split}' of {roots} has a voxel of a class that is learned"
            )
        sample, voxels = table["sample"].to_numpy(), table["voxels"].combine_chunks()
        self._counts = pc.list_value_length(voxels).to_numpy()
        self._starts, self._voxels = np.cumsum(self._counts) - self._counts, voxels.flatten().to_numpy()
        self._classes = np.bincount(sample, minlength=len(samples))
        self._first = np.cumsum(self._classes) - self._classes
        sizes = np.prod([side.astype(np.int64) for side in samples.sides(sample)], 0)
        if not (self._counts > 0).all() or not (self._voxels < np.repeat(sizes, self._counts)).all():
            roots = ", ".join(str(dataset.root / FOREGROUND_FILE) for dataset in samples.datasets)
            raise DatasetError(f"{roots}: a voxel is outside its volume: copy it again from its origin, or shard again")
        self.identity = xxhash.xxh3_128_hexdigest(b"".join(a.tobytes() for a in (sample, self._counts, self._voxels)))

    def _of(self, number: int, classes: Collection[int] | None) -> pa.Table:
        """Return the rows of one dataset whose volumes are among the samples, with their number ``sample``."""
        dataset, rows = self.samples.datasets[number], self.samples.rows[number]
        table = read_foreground(dataset.root)
        if table is None:
            reason = "it has no masks, or an older version has written it"
            raise DatasetError(f"{dataset.root} has no {FOREGROUND_FILE} ({reason})", lacks="foreground")
        keys = dataset.manifest.table(["key"])["key"].take(pa.array(rows)).combine_chunks()
        sample = pc.add(pc.index_in(table["key"], value_set=keys), sum(self.samples.sizes[:number]))
        table = table.append_column("sample", sample).select(["sample", "value", "voxels"])
        if classes is not None:
            table = table.filter(pc.is_in(table["value"], value_set=pa.array(sorted(classes), pa.uint8())))
        return table.filter(pc.is_valid(table["sample"]))

    def draw(self, index: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Return a voxel of each of the samples ``index`` [b] by ``u`` [b, 2]: of a class drawn evenly, drawn evenly.
        float64 [b, 3], (z, y, x); NaN for a sample without one."""
        voxel, known = np.full((len(index), 3), np.nan), self._classes[index] > 0
        index, u = index[known], u[known]
        of_class = random.integers(u[:, 0], self._first[index], self._first[index] + self._classes[index] - 1)
        place = self._starts[of_class] + random.integers(u[:, 1], 0, self._counts[of_class] - 1)
        row, x = np.divmod(self._voxels[place].astype(np.int64), self.samples.column("width", index))
        voxel[known] = np.stack((*np.divmod(row, self.samples.column("height", index)), x), 1)
        return voxel
