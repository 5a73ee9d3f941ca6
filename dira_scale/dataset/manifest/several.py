"""Texts of long columns that are in several groups: keys in two datasets, patients in two splits.

In memory are 16 bytes a row, hashes and their differences, and the texts that are in several groups. A hash only says
which texts to compare, so none counts that is another.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from dira_scale.dataset.manifest.dataset import ShardedDataset

Columns = Callable[[], Iterable[tuple[pa.ChunkedArray, np.ndarray]]]  # texts, and the numbers of their groups
READ = 2**14  # rows at a time
GROUPS = np.uint64(2**16)  # at most; the other 48 bits are of a hash


def in_several(columns: Columns, rows: int) -> dict[str, list[int]]:
    """Return the texts that are in several groups, each with these, both in the order of the ``columns``, which are
    read twice and have at most so many ``rows``."""
    packed, filled = np.empty(rows, np.uint64), 0
    for texts, groups in columns():
        some = np.unique(_hashes(texts) + groups.astype(np.uint64))
        packed[filled : filled + len(some)] = some
        filled += len(some)
    packed = packed[:filled]
    packed.sort()
    change = packed[1:] ^ packed[:-1]
    candidates = np.unique(packed[1:][(change > 0) & (change < GROUPS)] // GROUPS * GROUPS)
    found: dict[str, list[int]] = {}
    for texts, groups in columns() if len(candidates) else ():
        for row in np.flatnonzero(np.isin(_hashes(texts), candidates)).tolist():
            of = found.setdefault(texts[row].as_py(), [])
            of += [] if groups[row] in of else [int(groups[row])]
    return {text: of for text, of in found.items() if len(of) > 1}


def by_split(dataset: ShardedDataset, name: str, groups: Sequence[int]) -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
    """Yield the texts of a column, each with the group of its split; ``groups``: of each of the dataset's."""
    of, splits = np.array(groups), pa.array(dataset.splits)
    for batch in dataset.manifest.batches([name, "split"]):
        yield batch[name], of[pc.index_in(batch["split"], splits).to_numpy()]


def in_two_splits(manifest: Path, splits: Sequence[str], rows: int) -> int:
    """Return how often a patient of a manifest is in one more of the ``splits``."""

    def columns() -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        with pq.ParquetFile(manifest) as file:
            for batch in file.iter_batches(READ, columns=["patient", "split"]):
                yield batch["patient"], pc.index_in(batch["split"], pa.array(splits)).to_numpy()

    return sum(len(of) - 1 for of in in_several(columns, rows).values())


def _hashes(texts: pa.ChunkedArray) -> np.ndarray:
    """Return the upper 48 bits of each text's hash, uint64 [n]."""
    hashes = (xxhash.xxh3_64_intdigest(text.encode()) for text in texts.to_pylist())
    return np.fromiter(hashes, np.uint64, len(texts)) // GROUPS * GROUPS
