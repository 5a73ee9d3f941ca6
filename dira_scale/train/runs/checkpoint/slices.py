"""What each process writes of a checkpoint's tensors: a safetensors file of slices, which is also the local copy.

A slice is a range of a tensor's elements in row-major order; the file has it as a vector under the name
``NAME[START:STOP]``, or the whole tensor under its own name. Every element is written by one process.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = dict(
    zip(
        (
            torch.float64,
            torch.float32,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
        ),
        ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8"),
        strict=True,
    )
) | {torch.uint8: "U8", torch.bool: "BOOL"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}
SLICE = re.compile(r"(.*)\[([0-9]{1,18}):([0-9]{1,18})\]", re.DOTALL)


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor of the next checkpoint, as one process has it.

    Attributes:
        held: the elements that this process holds, which follow each other in row-major order.
        start: the number of elements before them.
        copy: this process's number among the ``copies`` that hold the same elements; None: every process holds them.
    """

    shape: torch.Size
    held: Tensor
    start: int = 0
    copy: tuple[int, int] | None = None


def replicated(tensors: Mapping[str, Tensor]) -> dict[str, CheckpointTensor]:
    """Checkpoint entries of tensors that every process holds completely."""
    return {name: CheckpointTensor(tensor.shape, tensor) for name, tensor in tensors.items()}


def slices_of(pieces: Mapping[str, CheckpointTensor], rank: int, ranks: int) -> dict[str, tuple[int, int]]:
    """The elements, from and to, that ``rank`` writes of each of ``pieces``: processes that hold the same tensors write
    equal shares of their bytes."""
    alike, mine = defaultdict[tuple[int, int], list[str]](list), dict[str, tuple[int, int]]()
    for name in sorted(pieces):
        alike[pieces[name].copy or (rank, ranks)].append(name)
    for (number, copies), names in alike.items():
        total, before = sum(pieces[name].held.nbytes for name in names), 0
        for name in names:  # on a line of all their bytes
            piece, size = pieces[name], pieces[name].held.itemsize
            ends = (-(-(total * share // copies - before) // size) for share in (number, number + 1))
            first, last = (min(max(0, end), piece.held.numel()) for end in ends)
            if first < last or not (piece.shape.numel() or number):
                mine[name] = piece.start + first, piece.start + last
            before += piece.held.nbytes
    return mine


def part_file(pieces: Mapping[str, CheckpointTensor], mine: Mapping[str, tuple[int, int]]) -> bytearray:
    """The safetensors file of the slices ``mine`` of ``pieces``, by copies of them."""
    header, size = dict[str, Any](), 0
    names = sorted(mine, key=lambda name: (-pieces[name].held.itemsize, name))  # so that all are aligned
    for name in names:
        piece, (start, stop) = pieces[name], mine[name]
        whole = stop - start == piece.shape.numel()
        shape, end = list(piece.shape) if whole else [stop - start], size + (stop - start) * piece.held.itemsize
        of = {"dtype": NAMES[piece.held.dtype], "shape": shape, "data_offsets": [size, end]}
        header[name if whole else f"{name}[{start}:{stop}]"], size = of, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    content, at = bytearray(8 + len(text) + size), 8 + len(text)
    content[:at] = len(text).to_bytes(8, "little") + text
    for name in names:
        piece, (start, stop) = pieces[name], mine[name]
        if start < stop:
            values = piece.held.detach().reshape(-1)[start - piece.start : stop - piece.start].cpu().view(torch.uint8)
            torch.frombuffer(content, dtype=torch.uint8, offset=at, count=len(values)).copy_(values)
            at += len(values)
    return content


class Entry(NamedTuple):
    """What a file of tensors has under a name: elements ``start`` to ``stop`` of a tensor, from a ``byte`` on."""

    name: str
    start: int
    stop: int
    byte: int
    dtype: torch.dtype
    shape: list[int] | None  # None: a slice


def entries_of(header: bytes, size: int) -> Iterator[Entry]:
    """Yield the entries of the safetensors header, which a stranger may have written, of a file of ``size`` bytes.

    Raises ValueError, LookupError, TypeError or AttributeError for one of another form, and unless each byte behind
    the header is of one entry, which has as many as its shape takes.
    """
    content, at = json.loads(header), 8 + len(header)
    content.pop("__metadata__", None)
    for name, entry in sorted(content.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(f"{name} has a size that is no number")
        count = math.prod(shape)
        if 8 + len(header) + begin != at or end - begin != count * dtype.itemsize:
            raise ValueError(f"{name} has other bytes than its shape takes")
        match = SLICE.fullmatch(name)
        start, stop = (int(match[2]), int(match[3])) if match else (0, count)
        if stop - start != count or (match and len(shape) != 1):
            raise ValueError(f"{name} has another number of elements")
        yield Entry(match[1] if match else name, start, stop, at, dtype, None if match else shape)
        at += end - begin
    if at != size:
        raise ValueError("it has bytes that are of no tensor")
