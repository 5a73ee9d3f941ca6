"""The columns that loaders need of every row, as records of fixed width, mapped from a file or held in memory.

Both come from one pass over the manifest, which also checks every row and computes the dataset's hash.
"""

import hashlib
import json
from binascii import unhexlify
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest.checks import wrong_rows
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.parquet import ManifestFile
from dira_scale.dataset.manifest.schema import INFO_FILE
from dira_scale.dataset.pixels.codecs import CODECS

INDEX_VERSION = 3  # raise it when records, checks or the file's layout change
CODEC_NAMES = sorted(CODECS)
SIDES = {2: ("height", "width"), 3: ("depth", "height", "width")}  # columns, in an array's order of axes
CHECKED = (
    "key", "split", "patient", "shard", "codec", "xxh3", "labels", "spacing", "affine", "boxes", "mask_offset",
    "mask_size",
)  # fmt: skip
NO_MASK = -1


def numbers(dims: int) -> tuple[str, ...]:
    """Return the columns that are stored as they are."""
    return ("offset", "size", *SIDES[dims], "low", "high", "channels", "bits")


def record_type(labels: int, dims: int = 2, channels: int = 0) -> np.dtype:
    """Return a row's record: of images 64 bytes, of volumes 68, and 4 for each label. ``shard`` and ``codec`` are
    numbers of words. ``channels``: that ``low`` and ``high`` have a value for each of; 0: one for all."""
    places = [(name, np.int64) for name in ("offset", "size", "mask_offset", "mask_size")]
    sides = [(name, np.int32) for name in ("shard", *SIDES[dims])]
    window = [(name, np.float32, (channels,) if channels else ()) for name in ("low", "high")]
    small = [("channels", np.int8), ("bits", np.int8), ("codec", np.uint8)]
    last = ("labels", np.float32, (labels,))
    return np.dtype([*places, ("xxh3", np.uint64), *sides, *window, *small, last], align=True)


class PayloadKind(NamedTuple):
    """A kind of payload that a decoder must be able to read."""

    codec: str
    channels: int
    bits: int


@dataclass(frozen=True)
class ManifestIndex:
    """The rows of a manifest.

    Attributes:
        records: [rows] of :func:`record_type`.
        by_split: int64 [rows], row numbers: those of the first split, then those of the second …
        hash: the dataset's.
        kinds: those of each split's images, sorted.
    """

    records: np.ndarray
    by_split: np.ndarray
    hash: str
    kinds: dict[str, list[PayloadKind]]

    @classmethod
    def read(cls, path: Path, info: DatasetInfo) -> "ManifestIndex":
        """Map a file that :meth:`Scan.write` has made. Raises OSError, or ValueError if it is not complete."""
        kind = record_type(len(info.label_names), info.dims, len(info.channels))
        rows = sum(info.counts.values())
        content = np.asarray(np.memmap(path, np.uint8, "r"))  # a plain array that shares the map
        length = int(content[-8:].view(np.int64)[0])
        facts, arrays = content[-8 - length : -8], content[: -8 - length]
        if length < 0 or len(arrays) != rows * (kind.itemsize + 8):
            raise ValueError(f"{path} has another size")
        records, by_split = np.split(arrays, [rows * kind.itemsize])
        content = json.loads(facts.tobytes())
        kinds = {split: [PayloadKind(*fields) for fields in entries] for split, entries in content["kinds"].items()}
        return cls(records.view(kind), by_split.view(np.int64), content["hash"], kinds)


class Scan:
    """One pass over a manifest: makes its index, in memory (:meth:`index`) or as a file (:meth:`write`).

    Both raise DatasetError for a row that the checks refuse, or counts that differ from the description's.
    """

    def __init__(self, manifest: ManifestFile, info: DatasetInfo) -> None:
        self.manifest, self.info = manifest, info
        self._kind = record_type(len(info.label_names), info.dims, len(info.channels))
        self._numbers = numbers(info.dims)
        self._splits, self._shards = list(info.counts), pa.array(list(info.shards), pa.string())

    def index(self) -> ManifestIndex:
        parts = list(self._records())
        records = np.concatenate([np.empty(0, self._kind), *parts])
        return ManifestIndex(records, self._by_split(), self._digest.hexdigest(), self._sorted_kinds())

    def write(self, file: BinaryIO) -> None:
        """Records, row numbers by split, the rest as JSON, and its length (int64)."""
        for records in self._records():
            file.write(records.view(np.uint8).data)
        file.write(self._by_split().data)
        facts = json.dumps({"hash": self._digest.hexdigest(), "kinds": self._sorted_kinds()}).encode()
        facts += b" " * (-len(facts) % 8)  # keeps the length aligned
        file.write(facts + len(facts).to_bytes(8, "little"))

    def _records(self) -> Iterator[np.ndarray]:
        self._digest = hashlib.sha256()
        self._split_of: list[np.ndarray] = []
        self._kinds: dict[str, set[PayloadKind]] = {split: set() for split in self._splits}
        rows = self.manifest.rows(self.info.schema)
        if rows != sum(self.info.counts.values()):
            raise DatasetError(
                f"{self.manifest.path} has {rows} rows, but {INFO_FILE} counts "
                f"{sum(self.info.counts.values())} samples: the files do not belong together; shard again"
            )
        for batch in self.manifest.batches([*CHECKED, *self._numbers]):
            try:
                yield self._of(batch)
            except ValueError as error:  # pyarrow's errors are too
                first_line = str(error).splitlines()[0]
                raise DatasetError(
                    f"{self.manifest.path} is damaged ({first_line}): copy it again from its origin, or shard again"
                ) from error

    def _of(self, rows: pa.Table) -> np.ndarray:
        """Check ``rows`` and make their records. Raises ValueError that says what is wrong with them."""
        if fault := wrong_rows(rows, self.info.dims, self.info.counts, self.info.shards, len(self.info.channels)):
            raise ValueError(fault)
        labels = len(self.info.label_names)
        if not pc.all(pc.equal(pc.list_value_length(rows["labels"]), labels)).as_py():
            raise ValueError(f"rows do not have {labels} labels each")
        records = np.empty(len(rows), self._kind)
        for name in self._numbers:
            column = rows[name]
            if pa.types.is_list(column.type):  # of several channels
                records[name] = pc.list_flatten(column).to_numpy().reshape(len(rows), -1)
            else:
                records[name] = column.to_numpy()
        for name in ("mask_offset", "mask_size"):
            records[name] = pc.fill_null(rows[name], NO_MASK).to_numpy()
        for name, words in (("shard", self._shards), ("codec", pa.array(CODEC_NAMES))):
            records[name] = pc.index_in(rows[name], words).to_numpy()
        records["labels"] = pc.list_flatten(rows["labels"]).to_numpy().reshape(len(rows), labels)
        records["xxh3"] = _numbers(rows["xxh3"].combine_chunks())
        # The rows are added to the hash, the splits and the kinds.
        words = pc.binary_join_element_wise(rows["key"], rows["split"], rows["xxh3"], " ")
        lines = pc.binary_join_element_wise(words, "", "\n")
        self._digest.update(_text(lines.combine_chunks()))
        split = pc.index_in(rows["split"], pa.array(self._splits, pa.string())).to_numpy()
        self._split_of.append(split.astype(np.min_scalar_type(len(self._splits))))
        for row in rows.group_by(["split", *PayloadKind._fields]).aggregate([]).to_pylist():
            self._kinds[row["split"]].add(PayloadKind(*(row[name] for name in PayloadKind._fields)))
        return records

    def _by_split(self) -> np.ndarray:
        split = np.concatenate([np.empty(0, np.uint8), *self._split_of])
        counted = np.bincount(split, minlength=len(self._splits)).tolist()
        for name, count in zip(self._splits, counted, strict=True):
            if count != self.info.counts[name]:
                raise DatasetError(
                    f"{self.manifest.path} has {count} rows of split '{name}', but {INFO_FILE} counts "
                    f"{self.info.counts[name]}: the files do not belong together; shard again"
                )
        return np.argsort(split, kind="stable")

    def _sorted_kinds(self) -> dict[str, list[PayloadKind]]:
        return {split: sorted(kinds) for split, kinds in self._kinds.items()}


def _numbers(checksums: pa.StringArray) -> np.ndarray:
    """uint64 [n] of texts of 16 hexadecimal digits."""
    text = _text(checksums)
    if len(text) != 16 * len(checksums) or pc.any(pc.not_equal(pc.binary_length(checksums), 16)).as_py():
        raise ValueError("xxh3 is not 16 hexadecimal digits")
    return np.frombuffer(unhexlify(text), ">u8")


def _text(texts: pa.StringArray) -> memoryview:
    _, offsets, data = texts.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]].tolist()
    return memoryview(data or b"")[first:last]
