"""What loaders need of every row, as records of fixed width, and patients and studies as numbers: mapped from a file.

The file is ``manifest.index`` of a dataset, or a node's copy of it::

    MAGIC, version
    records             [rows] of :func:`record_type`
    by_split            int64 [rows]
    patient, study      int32 [rows] each: the numbers of their names; -1: none
    spans               int64 [shards, 2]: each shard's first row, and how many it has; first -1: they are not together
    ends, text          of the patients' names, then of the studies': int64 [names + 1], and UTF-8
    facts               JSON: what the file is of, the dataset's hash, the kinds of images, how many names there are
    length of facts     int64
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from dira_scale.dataset.manifest.checks import checked_kinds, wrong_records
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.pixels.codecs import CODECS

MAGIC = b"diraidx4"  # raise the number when records, checks or the file's layout change
CODEC_NAMES = sorted(CODECS)
SIDES = {2: ("height", "width"), 3: ("depth", "height", "width")}  # columns, in an array's order of axes
NO_MASK = -1
NAMED = "patient", "study"  # columns that are numbers of names
CHECKED = 2**20  # rows at a time


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


class Names(Sequence[str]):
    """Texts, each once: name i is ``text`` uint8 from ``ends[i]`` to ``ends[i + 1]``."""

    def __init__(self, ends: np.ndarray, text: np.ndarray) -> None:
        self._ends, self._text = ends, text

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: Any) -> Any:
        return self.array(number, number + 1)[0].as_py()

    def array(self, first: int = 0, last: int | None = None) -> pa.LargeStringArray:
        """Return those from ``first`` to ``last``, without a copy."""
        ends = self._ends[first : len(self) + 1 if last is None else last + 1]
        return pa.LargeStringArray.from_buffers(len(ends) - 1, *map(pa.py_buffer, (ends, self._text)))


class Codes(NamedTuple):
    """A column of names: for each row the number of its name, int32 [rows], -1 without one."""

    codes: np.ndarray
    names: Names


class IndexParts:
    """Where the parts of fixed size lie in an index of ``info``.

    Attributes:
        size: bytes up to the names.
    """

    def __init__(self, info: DatasetInfo) -> None:
        rows = sum(info.counts.values())
        record = record_type(len(info.label_names), info.dims, len(info.channels))
        self._parts: list[tuple[np.dtype, tuple[int, ...]]] = [
            (record, (rows,)), (np.dtype(np.int64), (rows,)), *[(np.dtype(np.int32), (rows,))] * len(NAMED),
            (np.dtype(np.int64), (len(info.shards), 2)),
        ]  # fmt: skip
        self.size = len(MAGIC) + sum(kind.itemsize * int(np.prod(shape)) for kind, shape in self._parts)

    def split(self, content: np.ndarray) -> list[np.ndarray]:
        """Return views of ``content``, uint8: records, by_split, patient, study, spans."""
        views, start = [], len(MAGIC)
        for kind, shape in self._parts:
            end = start + kind.itemsize * int(np.prod(shape))
            views.append(content[start:end].view(kind).reshape(shape))
            start = end
        return views


@dataclass(frozen=True)
class ManifestIndex:
    """The rows of a manifest.

    Attributes:
        records: [rows] of :func:`record_type`.
        by_split: int64 [rows], row numbers: those of the first split, then those of the second …
        spans: int64 [shards, 2], see above.
        patients, studies: of each row.
        hash: the dataset's.
        kinds: those of each split's images, sorted.
        manifest: what identifies the manifest that it is of (``ManifestFile.bond``), and its checksum.
    """

    records: np.ndarray
    by_split: np.ndarray
    spans: np.ndarray
    patients: Codes
    studies: Codes
    hash: str
    kinds: dict[str, list[PayloadKind]]
    manifest: Mapping[str, Any]

    @classmethod
    def of(cls, content: np.ndarray, info: DatasetInfo, check: bool = True) -> "ManifestIndex":
        """Return the index that ``content``, uint8, is. Raises ValueError if it is none of ``info``, or damaged.

        ``check``: every value, as a stranger may have written it; else only what a write that was cut short would
        leave.
        """
        layout = IndexParts(info)
        if len(content) < layout.size + 8 or content[: len(MAGIC)].tobytes() != MAGIC:
            raise ValueError("it has another version or size")
        length = int(content[-8:].view(np.uint8).copy().view(np.int64)[0])
        if not 0 < length <= min(len(content) - layout.size - 8, 2**26):
            raise ValueError("it is cut short")
        facts = json.loads(content[-8 - length : -8].tobytes())
        try:
            if facts["described"] != info.described(CODEC_NAMES):
                raise ValueError("it is of another dataset.json")
            named = [[int(count) for count in facts["names"][column]] for column in NAMED]
            hash, kinds, manifest = str(facts["hash"]), checked_kinds(facts["kinds"], info.counts), facts["manifest"]
            manifest = {"size": int(manifest["size"]), "tail": str(manifest["tail"]), "xxh3": str(manifest["xxh3"])}
            if not re.fullmatch("[0-9a-f]{64}", hash):
                raise ValueError("its hash is none")
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"its facts are damaged ({error!r})") from error
        start, end, names = layout.size, len(content) - 8 - length, list[Names]()
        for count, size in named:
            if min(count, size) < 0 or start + 8 * (count + 1) + size > end:
                raise ValueError("its names are damaged")
            middle = start + 8 * (count + 1)
            names.append(Names(content[start:middle].view(np.int64), content[middle : middle + size]))
            start = middle + size + -size % 8
        records, by_split, patient, study, spans = layout.split(content)
        patients, studies = (Codes(*column) for column in zip((patient, study), names, strict=True))
        kinds_of = {split: [PayloadKind(*fields) for fields in entries] for split, entries in kinds.items()}
        index = cls(records, by_split, spans, patients, studies, hash, kinds_of, manifest)
        if check:
            index._check(info)
        return index

    def _check(self, info: DatasetInfo) -> None:
        rows = len(self.records)
        kinds = {_kind_number(CODEC_NAMES.index(kind.codec), *kind[1:]) for of in self.kinds.values() for kind in of}
        met = np.zeros(rows, bool)
        for first in range(0, rows, CHECKED):
            part = slice(first, first + CHECKED)
            columns = (self.records[part][name].astype(np.int64) for name in PayloadKind._fields)
            if not {*np.unique(_kind_number(*columns)).tolist()} <= kinds:
                raise ValueError("it has other kinds of images than it says")
            if fault := wrong_records(self.records[part], info, len(CODEC_NAMES)):
                raise ValueError(fault)
            _within(self.by_split[part], 0, rows, "by_split")
            met[self.by_split[part]] = True
            _within(self.patients.codes[part], 0, len(self.patients.names), "patient")
            _within(self.studies.codes[part], -1, len(self.studies.names), "study")
        if not met.all():
            raise ValueError("a row is in no split, or in two")
        _within(self.spans[:, 0], -1, max(rows, 1), "spans")
        _within(self.spans.sum(1), -1, rows + 1, "spans")
        _within(self.spans[:, 1], 0, rows + 1, "spans")
        for _, names in (self.patients, self.studies):
            names.array().validate(full=True)  # they lie within their text, which is UTF-8


def _kind_number(codec: Any, channels: Any, bits: Any) -> Any:
    return codec << 16 | channels << 8 | bits


def _within(values: np.ndarray, least: int, end: int, what: str) -> None:
    if len(values) and not (values.min() >= least and values.max() < end):
        raise ValueError(f"{what} is not from {least} to {end - 1}")
