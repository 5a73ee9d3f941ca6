"""FFCV's file format, version 2, written and read without FFCV (which needs a compiler and OpenCV's headers).

Layout (specified only by ``ffcv/types.py``, ``writer.py`` and ``fields/`` of libffcv/ffcv 1.0.2)::

    HEADER                       version, number of fields, page size, number of samples, where the allocations are
    FIELD x fields               kind, name, arguments
    one record per sample        all fields' metadata: numbers by value, everything else as a pointer
    (zeros up to a page)
    pages                        the pointers' targets; each sample is within one page
    ALLOCATION x allocations     sample, pointer, size: FFCV prefetches by these
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from dira_scale.base.storage.atomic import open_new

VERSION = 2
HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")])
FIELD = np.dtype([("kind", "u1"), ("name", "u1", 16), ("arguments", "u1", 1024)])
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
PAGES = [2**power for power in range(21, 32)]  # what FFCV accepts: from 2 MiB, below 4 GiB
RAW, JPEG = 1, 0  # modes of an image


class BetonError(ValueError):
    """A file is not a ``.beton`` of version 2, or is truncated; or a sample does not fit into one."""


class Field(Protocol):
    """One column: its number in FFCV's list of kinds, its metadata per sample, and its arguments."""

    kind: int

    @property
    def metadata(self) -> np.dtype: ...

    @property
    def arguments(self) -> bytes: ...


@dataclass(frozen=True)
class IntField:
    kind = 1
    metadata, arguments = np.dtype("<i8"), b""


@dataclass(frozen=True)
class ImageField:
    """FFCV's RGBImageField: JPEG bytes, or uint8 [H, W, 3]."""

    kind = 2
    metadata = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
    arguments = b""


@dataclass(frozen=True)
class BytesField:
    """Any bytes. FFCV's loader pads them to the longest: store their length in an IntField too."""

    kind = 3
    metadata, arguments = np.dtype([("pointer", "<u8"), ("size", "<u8")]), b""


@dataclass(frozen=True)
class JsonField(BytesField):
    """Zero-terminated JSON text: FFCV finds its end in the padding by the zero."""

    kind = 5


@dataclass(frozen=True)
class ArrayField:
    """Arrays of one shape and type."""

    dtype: str
    shape: tuple[int, ...]
    kind = 4
    metadata = np.dtype("<u8")

    @property
    def arguments(self) -> bytes:
        described = json.dumps(np.dtype(self.dtype).descr).encode()
        return struct.pack("<33Q", *self.shape, *[0] * (32 - len(self.shape)), len(described)) + described

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


def record_type(fields: Mapping[str, Field]) -> np.dtype:
    """Return a sample's record, aligned as in C."""
    return np.dtype([("", field.metadata) for field in fields.values()], align=True)


def pages_for(largest: int) -> list[int]:
    """Return the page sizes that hold a sample of ``largest`` bytes; the first is used. Empty if none does."""
    return [page for page in PAGES if page >= max(largest, 4 * PAGES[0])]


class Writer:
    """Writes samples in order, with about a page of memory. A context manager: the file is complete on exit.

    Args:
        largest: bytes of the largest sample; it decides the page size.
    """

    def __init__(self, path: Path, fields: Mapping[str, Field], samples: int, largest: int):
        fitting = pages_for(largest)
        if not fitting:
            raise BetonError(f"a sample of {largest} bytes exceeds FFCV's largest page, {PAGES[-1]} bytes")
        self.page, self.fields = fitting[0], fields
        self.file = open_new(path)
        self.records = np.zeros(samples, record_type(fields))
        self.allocations: list[tuple[int, int, int]] = []
        self.start = HEADER.itemsize + len(fields) * FIELD.itemsize
        self.next = -(-(self.start + self.records.nbytes) // self.page) * self.page
        self.done = 0

    def __enter__(self) -> "Writer":
        return self

    def add(self, values: Mapping[str, Any]) -> None:
        """Write the next sample: an int, bytes or array per field; an image is (mode, height, width, bytes)."""
        parts: dict[str, bytes] = {}
        for name, value in values.items():
            if isinstance(value, bytes | tuple):
                parts[name] = value if isinstance(value, bytes) else bytes(value[3])
            else:
                parts[name] = b"" if isinstance(value, int) else np.asarray(value).tobytes()
        size = sum(map(len, parts.values()))
        if size > self.page - self.next % self.page:  # a sample must be within one page
            self.next = -(-self.next // self.page) * self.page
        record = self.records[self.done]
        for column, (name, field) in enumerate(self.fields.items()):
            value, part = values[name], parts[name]
            if isinstance(field, IntField):
                record[column] = value
                continue
            pointer = self.next
            self.file.seek(pointer)
            self.file.write(part)
            self.allocations.append((self.done, pointer, len(part)))
            self.next += len(part)
            if isinstance(field, ImageField):
                mode, height, width, _ = value
                record[column] = (mode, width, height, pointer)
            else:
                record[column] = (pointer, len(part)) if isinstance(field, BytesField) else pointer
        self.done += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.file:
            if kind is not None:
                return
            assert self.done == len(self.records), f"expected {len(self.records)} samples, got {self.done}"
            end = -(-self.next // self.page) * self.page
            self.file.truncate(end)
            self.file.seek(end)
            self.file.write(np.array(self.allocations, ALLOCATION).tobytes())
            described = np.zeros(len(self.fields), FIELD)
            for line, (name, field) in zip(described, self.fields.items(), strict=True):
                line["kind"] = field.kind
                line["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
                line["arguments"][: len(field.arguments)] = np.frombuffer(field.arguments, np.uint8)
            header = np.array([(VERSION, len(self.fields), self.page, len(self.records), end)], HEADER)
            self.file.seek(0)
            self.file.write(header.tobytes() + described.tobytes() + self.records.tobytes())


class Reader:
    """Reads samples back. Raises BetonError when ``path`` was not written by :class:`Writer` or FFCV."""

    def __init__(self, path: Path):
        self.content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        header = self._part(0, 1, HEADER)[0]
        if header["version"] != VERSION:
            raise BetonError(f"{path}: not a .beton of version {VERSION}")
        described = self._part(HEADER.itemsize, int(header["fields"]), FIELD)
        self.fields = {bytes(line["name"]).rstrip(b"\0").decode("ascii"): _field(line) for line in described}
        start = HEADER.itemsize + described.nbytes
        self.records = self._part(start, int(header["samples"]), record_type(self.fields))

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Values by field, as :meth:`Writer.add` takes them."""
        values: dict[str, Any] = {}
        for (name, field), entry in zip(self.fields.items(), self.records[number].item(), strict=True):
            match field:
                case IntField():
                    values[name] = entry
                case BytesField():
                    pointer, size = entry
                    values[name] = self._part(pointer, size, np.dtype("u1")).tobytes()
                case ArrayField():
                    part = self._part(entry, field.size, np.dtype("u1"))
                    values[name] = part.view(field.dtype).reshape(field.shape)
                case _:
                    mode, width, height, pointer = entry
                    size = 3 * height * width
                    if mode != RAW:
                        size = int(self._allocations["size"][np.searchsorted(self._allocations["pointer"], pointer)])
                    values[name] = mode, height, width, self._part(pointer, size, np.dtype("u1")).tobytes()
        return values

    @cached_property
    def _allocations(self) -> np.ndarray:
        """In the order of their pointers."""
        start = int(self._part(0, 1, HEADER)[0]["table"])
        table = self._part(start, (len(self.content) - start) // ALLOCATION.itemsize, ALLOCATION)
        return table[np.argsort(table["pointer"], kind="stable")]

    def _part(self, start: int, count: int, kind: np.dtype) -> np.ndarray:
        end = start + count * kind.itemsize
        if not 0 <= start <= end <= len(self.content):
            raise BetonError("truncated or damaged .beton: a pointer leads out of the file")
        return self.content[start:end].view(kind)


def _field(line: np.void) -> Field:
    kinds: dict[int, Any] = {1: IntField, 2: ImageField, 3: BytesField, 5: JsonField}
    if line["kind"] in kinds:
        return kinds[line["kind"]]()
    if line["kind"] != 4:
        raise BetonError(f"unsupported FFCV field of kind {line['kind']}")
    arguments = bytes(line["arguments"])
    *shape, size = struct.unpack_from("<33Q", arguments)
    (_, dtype), *_ = json.loads(arguments[33 * 8 : 33 * 8 + size])
    return ArrayField(dtype, tuple(edge for edge in shape if edge))
