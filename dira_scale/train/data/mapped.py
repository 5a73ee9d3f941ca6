"""Arrays that the processes of a node share: one makes them, in a file that all map."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import numpy as np
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.node import made_once

VERSION = 1  # of every file here: raise it when a file's content, or a rule by which one is made, changes
SMALL = 2**20  # bytes below which each process makes its own: a file takes longer
CHUNK = 2**18  # samples at a time
Write = Callable[[str, Iterable[np.ndarray]], np.ndarray]


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of ``CHUNK`` that together have so many."""
    return (slice(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK))


class Mapped:
    """Arrays of one axis by their names, and facts.

    ``content`` uint8, of the file ``path`` if there is one, has the arrays, each from a multiple of 8 bytes on; as JSON
    the facts, and the arrays' names, types, lengths and places; and the length of that, int64.
    """

    def __init__(self, content: np.ndarray, path: Path | None = None) -> None:
        self._content, self._path = content, path
        length = int(content[-8:].copy().view(np.int64)[0])
        described = json.loads(content[-8 - length : -8].tobytes())
        self.facts: dict[str, Any] = described["facts"]
        self._arrays = {name: np.frombuffer(content, *where) for name, *where in described["arrays"]}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the file, too, which is there for a month or more
        return (_open, (self._path,)) if self._path and self._path.exists() else (Mapped, (self._content,))


def mapped_once(kind: str, of: Any, size: int, make: Callable[[Write], dict[str, Any]]) -> Mapped:
    """Return what one process of this node has made: in a file, if it is large.

    Args:
        kind, of: name the file: what it has, and all that its content depends on, as JSON.
        size: its bytes, or about as many.
        make: is given a function that writes an array, not empty, by its name and part after part, and returns it;
            returns the facts.

    Raises DatasetError where no folder can keep it; and what ``make`` raises.
    """

    def fill(file: BinaryIO) -> None:
        arrays, done = list[tuple[str, str, int, int]](), Event()

        def write(name: str, parts: Iterable[np.ndarray]) -> np.ndarray:
            start, count = file.tell(), 0
            for part in parts:
                file.write(part.data)
                number, count = part.dtype, count + len(part)
            arrays.append((name, number.str, count, start))
            file.write(bytes(-file.tell() % 8))
            file.flush()
            return np.memmap(file, number, "r", start, (count,))

        def touch() -> None:
            while not done.wait(1):
                os.utime(file.fileno())

        with ThreadPoolExecutor(1) as pool:  # sorting takes minutes: who waits sees every second that it goes on
            pool.submit(touch)
            try:
                facts = make(write)
            finally:
                done.set()
        text = json.dumps({"facts": facts, "arrays": arrays}).encode()
        file.write(text + len(text).to_bytes(8, "little"))
        file.flush()

    if size < SMALL:
        with os.fdopen(os.memfd_create(kind), "w+b") as memory:
            fill(memory)
            memory.seek(0)
            return Mapped(np.frombuffer(memory.read(), np.uint8))  # whose descriptor does not stay
    name = xxhash.xxh3_128_hexdigest(json.dumps([VERSION, of]).encode())
    try:
        return _open(made_once(f"{name}.{kind}", fill))
    except OSError as error:
        cure = "set XDG_CACHE_HOME to a folder on this machine's disk with more room"
        what = f"the {kind}, about {size / 1e6:,.0f} MB"
        raise DatasetError(f"no folder of this machine can keep {what} ({error}): {cure}") from error


def _open(path: Path) -> Mapped:
    return Mapped(np.asarray(np.memmap(path, np.uint8, "r")), path)
