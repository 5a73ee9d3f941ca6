"""A stored checkpoint: each process reads what it needs of each tensor, verified chunk by chunk."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
import xxhash
from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import is_local, read_ranges
from dira_scale.train.runs.checkpoint.folder import ABSENT, size_of_file, unless_absent
from dira_scale.train.runs.checkpoint.slices import Entry, entries_of

CHUNK = 2**20  # bytes that one checksum is of
BLOCK = 2**24  # bytes that are asked for at once
KEPT = 32  # chunks, whose rest another slice needs, and open files
LONGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows


class DamagedError(UserError):
    """A checkpoint is truncated, changed or of another format."""


class PartFile(NamedTuple):
    """A safetensors file of a checkpoint; ``sums`` are of ``chunk`` bytes each."""

    path: Path
    size: int
    sums: Sequence[str]
    chunk: int = CHUNK


class Extent(NamedTuple):
    """Where elements ``start`` to ``stop`` of a tensor are: in a part, from a byte on."""

    start: int
    stop: int
    part: int
    byte: int


class StoredTensor(NamedTuple):
    dtype: torch.dtype
    shape: torch.Size
    extents: list[Extent]


class LazyTensors(Mapping[str, Tensor]):
    """Tensors that are read when they are asked for, each time anew."""

    def __init__(self, reads: Mapping[str, Callable[[], Tensor]]) -> None:
        self._reads = dict(reads)

    def __getitem__(self, name: str) -> Tensor:
        return self._reads[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._reads)

    def __len__(self) -> int:
        return len(self._reads)


class PartFiles:
    """Reads files of tensors. All methods raise DamagedError for what is not as it was written, and UserError where the
    disk or the store fails."""

    def __init__(self, parts: Sequence[PartFile]) -> None:
        self.parts = parts
        self._sized = set[int]()
        self._files, self._chunks = OrderedDict[int, BinaryIO](), OrderedDict[tuple[int, int], bytes]()

    def verify(self, share: int, shares: int) -> None:
        """Read the chunks of a share of all bytes."""
        of_each = [-(-part.size // part.chunk) for part in self.parts]
        total, before = sum(of_each), 0
        for number, count in enumerate(of_each):
            first, last = (min(max(0, total * of // shares - before), count) for of in (share, share + 1))
            for _ in self._verified(number, first, last):
                pass
            before += count

    def header(self, number: int) -> list[Entry]:
        """What is in a part, by bytes from the file's beginning."""
        part = self.parts[number]
        try:
            self.read_into(length := bytearray(8), number, 0, 8)
            if (size := int.from_bytes(length, "little")) > min(LONGEST_HEADER, part.size - 8):
                raise ValueError("its header is longer than the file")
            self.read_into(header := bytearray(size), number, 8, 8 + size)
            return list(entries_of(bytes(header), part.size))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedError(f"{part.path}: no file of tensors ({type(error).__name__}: {error})") from error

    def read_into(self, target: bytearray | memoryview, number: int, begin: int, end: int) -> None:
        """Fill ``target`` with bytes ``begin`` to ``end`` of a part."""
        chunk = self.parts[number].chunk
        for i, data in self._verified(number, begin // chunk, -(-end // chunk)):
            first, last = max(begin, i * chunk), min(end, i * chunk + len(data))
            target[first - begin : last - begin] = data[first - i * chunk : last - i * chunk]

    def _verified(self, number: int, first: int, last: int) -> Iterator[tuple[int, memoryview]]:
        """Yield chunks ``first`` to ``last`` of a part, the first and the last one from memory if they are there."""
        part, at = self.parts[number], first
        while at < last:
            if (kept := self._chunks.get((number, at))) is not None:
                yield at, memoryview(kept)
                at += 1
                continue
            block = memoryview(self._fetch(number, at, min(last, at + max(1, BLOCK // part.chunk))))
            for data in (block[start : start + part.chunk] for start in range(0, len(block), part.chunk)):
                if checksum(data) != part.sums[at]:
                    raise DamagedError(f"{part.path}: cut short or changed since it was written")
                if at in (first, last - 1):
                    self._chunks[number, at] = bytes(data)
                    if len(self._chunks) > KEPT:
                        self._chunks.popitem(last=False)
                yield at, data
                at += 1

    def _fetch(self, number: int, first: int, last: int) -> bytes:
        part = self.parts[number]
        begin, end = first * part.chunk, min(last * part.chunk, part.size)
        try:
            with unless_absent(part.path):
                if number not in self._sized and (size := size_of_file(part.path)) != part.size:
                    raise DamagedError(f"{part.path}: cut short or changed since it was written ({size:,} bytes)")
                self._sized.add(number)
                if not is_local(part.path):
                    return read_ranges(part.path, [(begin, end)])[0]
                if number not in self._files:
                    self._files[number] = part.path.open("rb", buffering=0)
                    if len(self._files) > KEPT:
                        self._files.popitem(last=False)[1].close()
                content = os.pread(self._files[number].fileno(), end - begin, begin)
        except ABSENT as error:
            raise DamagedError(f"{part.path}: cannot be read ({type(error).__name__}: {error})") from error
        if len(content) != end - begin:
            raise DamagedError(f"{part.path}: cut short since it was written")
        return content


class StoredTensors(LazyTensors):
    """The tensors of the checkpoint in ``folder``, by their names; an index gives each one whole.

    Args:
        headers: of all parts, as :meth:`PartFiles.header` gives them.
        about: type and shape of each tensor; None: all are whole.

    Raises DamagedError if the slices of a tensor are not all there, or some more than once.
    """

    def __init__(
        self, folder: Path, parts: PartFiles, headers: Sequence[Sequence[Entry]], about: Mapping[str, Any] | None
    ) -> None:
        tensors = dict[str, StoredTensor]()
        for number, entries in enumerate(headers):
            for entry in entries:
                dtype, shape = (entry.dtype, entry.shape) if about is None else about.get(entry.name, (None, None))
                tensor = tensors.setdefault(entry.name, StoredTensor(dtype, torch.Size(shape or ()), []))
                if shape is None or entry.dtype != dtype or (entry.shape or list(tensor.shape)) != list(tensor.shape):
                    raise DamagedError(f"{parts.parts[number].path}: {entry.name} is of another type or shape")
                tensor.extents.append(Extent(entry.start, entry.stop, number, entry.byte))
        for name, tensor in tensors.items():
            tensor.extents.sort()
            ends = [0, *(extent.stop for extent in tensor.extents)]
            if [extent.start for extent in tensor.extents] != ends[:-1] or ends[-1] != tensor.shape.numel():
                raise DamagedError(f"{folder}: not each element of {name} is there once")
        if about is not None and (lost := about.keys() - tensors.keys()):
            raise DamagedError(f"{folder}: {min(lost)} is in none of its files")
        # In the order of the first part, so that whoever takes one after another reads each chunk once.
        self.tensors = dict(sorted(tensors.items(), key=lambda item: item[1].extents[0][2:]))
        super().__init__({name: partial(self.whole, name) for name in self.tensors})
        self.parts = parts

    def whole(self, name: str) -> Tensor:
        shape = self.tensors[name].shape
        return self.read(name, 0, shape.numel()).view(shape)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of a tensor, [stop - start], in row-major order."""
        dtype, _, extents = self.tensors[name]
        result, size = torch.empty(stop - start, dtype=dtype), dtype.itemsize
        target = result.view(torch.uint8).numpy().data
        for extent in extents:
            first, last = max(start, extent.start), min(stop, extent.stop)
            if first < last:
                begin, end = (extent.byte + (at - extent.start) * size for at in (first, last))
                self.parts.read_into(target[(first - start) * size : (last - start) * size], extent.part, begin, end)
        return result

    def part_of(self, name: str, like: Tensor, start: int) -> Tensor:
        """As many elements of a tensor from ``start`` on as ``like`` has, in its shape."""
        return self.read(name, start, start + like.numel()).view(like.shape)


def checksum(content: bytes | memoryview) -> str:
    """xxh3 (128 bits), in hexadecimal digits."""
    return str(xxhash.xxh3_128(content).hexdigest())


def checksums(content: bytes | bytearray) -> list[str]:
    """The checksum of each chunk."""
    view = memoryview(content)
    return [checksum(view[start : start + CHUNK]) for start in range(0, len(view), CHUNK)]
