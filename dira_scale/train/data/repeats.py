"""Repeats of samples: how often each comes in an epoch, as ``shard balance`` writes it.

A file is Arrow's (IPC), of one record batch and uncompressed, so that a column is mapped instead of read. It has the
rows of one split of one or several datasets, in their order:

    key, repeats            of a row; 0: it is in no epoch
    end                     the sum of the repeats up to this row, int64
    duplicate_of            the key of the row that is kept in its place; null: itself
    cluster_1, cluster_2 …  the number of its cluster on each level, from the finest on
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.mapped import Mapped, Write, chunks, mapped_once
from dira_scale.train.data.selection import Selection

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    from dira_scale.dataset.manifest import ShardedDataset

KIND = b"dira_scale.weights"  # in the schema's metadata
MOST = 1000  # repeats of a row: its views are told apart by 16 bits, with data.crops and weights of datasets


class Repeats:
    """The draws of samples: sample s has those from ``ends[s - 1]`` to ``ends[s] - 1``, of ``ends`` int64 [n], which
    are mapped from ``file``, if there is one."""

    def __init__(self, ends: np.ndarray, file: Path | Mapped | None = None) -> None:
        self.ends, self._file = ends, file

    @classmethod
    def open(cls, file: Path, datasets: Sequence["ShardedDataset"], split: str) -> "Repeats":
        """Raises ArgumentError for a file that is none, is damaged, or is of other images."""
        try:
            repeats, of = _mapped(file)
            if of != content(datasets, split):
                hashes = of["datasets"], [each.hash for each in datasets]
                theirs, ours = (", ".join(hash[:12] for hash in each) for each in hashes)
                raise ValueError(f"it is of split {of['split']} of {theirs}, not of split {split} of {ours}")
            right = all(0 <= part.min() <= part.max() <= MOST for part in repeats.every())
            if not right or len(repeats.ends) != sum(len(each.rows(split)) for each in datasets):
                raise ValueError("it is damaged")
        except (OSError, ValueError, LookupError, TypeError, NotImplementedError, RecursionError) as error:
            expected = f"a file that shard balance wrote of these datasets, in this order: {error}"
            raise ArgumentError("repeats", str(file), expected) from error
        return repeats

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the file, too
        if isinstance(self._file, Path):
            return _reopened, (self._file,)
        return (Repeats, (self.ends,)) if self._file is None else (_selected, (self._file,))

    @cached_property
    def identity(self) -> str:
        """Return a hash of all repeats."""
        return hashlib.sha256(np.ascontiguousarray(self.ends).data).hexdigest()

    def counts(self, samples: np.ndarray) -> np.ndarray:
        """Return the repeats of ``samples`` [m], int64 [m]."""
        return self.ends[samples] - np.where(samples, self.ends[samples - 1], 0)

    def every(self) -> Iterator[np.ndarray]:
        """Yield those of all samples, of some at a time."""
        return (self.counts(np.arange(part.start, part.stop)) for part in chunks(len(self.ends)))

    def of(self, selection: Selection) -> "Repeats":
        """Return those of the samples that are selected, counted through these alone: 8 bytes for each, mapped."""

        def make(write: Write) -> dict[str, Any]:
            write("ends", [np.cumsum(self.counts(selection.samples))])
            return {}

        of = [self.identity, selection.identity]
        return _selected(mapped_once("repeats", of, 8 * len(selection.samples), make))

    def sizes(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return how many draws consecutive parts of so many samples have."""
        return tuple(np.diff(self.ends[np.cumsum(counts) - 1], prepend=0).tolist())

    def samples(self, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return of each draw [b] its sample, which of the sample's draws it is, and how many these are."""
        sample = np.searchsorted(self.ends, draw, side="right")
        count = self.counts(sample)
        return sample, draw - (self.ends[sample] - count), count


def content(datasets: Sequence["ShardedDataset"], split: str) -> dict[str, Any]:
    """Return the images that a file is of: the datasets by their hashes."""
    return {"split": split, "datasets": [each.hash for each in datasets]}


def _mapped(file: Path) -> tuple[Repeats, Any]:
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    if KIND not in (table.schema.metadata or {}):
        raise ValueError("shard balance has not written it")
    (end,) = table["end"].cast(pa.int64()).chunks
    return Repeats(end.to_numpy(), file), json.loads(table.schema.metadata[KIND])


def _selected(file: Mapped) -> Repeats:
    return Repeats(file["ends"], file)


def _reopened(file: Path) -> Repeats:
    return _mapped(file)[0]
