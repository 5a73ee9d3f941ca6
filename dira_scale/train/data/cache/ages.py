"""What a cache holds, and which of its files was needed longest ago, without listing them."""

import fcntl
import mmap
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
import xxhash

from dira_scale.base.storage.atomic import machine_tag, open_new

FILE, LOCK, PART = "ages", "lock", ".part"
OURS = re.compile(r"[^/\n]+-[0-9a-f]{16}-(?P<size>\d{1,15})\.\w+(\.part)?")
BLOCK, NEAR, NEVER = 256, 64, 2**63 - 1  # rows with one bound; those where a name may be; the age of an empty row


class Ages:
    """The file ``ages``: totals, and a row for each file of the cache, found by the hash of its name.

    Whoever holds the folder's lock changes it. Where one was killed meanwhile, or the machine has started or names in
    the folder have changed since, the next counts again, into a new file. All methods raise OSError.

    Attributes:
        total: bytes of all files when they are complete; ``fetching``: of those that are not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self) -> Iterator[Self]:
        """Hold the folder's lock: names in it change only inside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileIO(os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._mapped() or self._all["seal"] != self._seal():
                self._write(self._files())
            self._all["seal"] = 0
            yield self
            self._all["seal"] = self._seal()

    def touch(self, names: Iterable[str]) -> None:
        """Note that files are needed now; without the lock, as only ages change, and grow."""
        if self._mapped():
            for _, row, _ in map(self._find, names):
                if row is not None:
                    self._ages[row] = time.time_ns()

    def put(self, name: str, age: int | None = None) -> None:
        """Note a file of the folder, needed now or at ``age`` (nanoseconds since 1970)."""
        age = time.time_ns() if age is None else age
        key, row, empty = self._find(name)
        if row is None:
            self._add(name, 1)
            row = empty
        if row is None:
            known = self._keys > 0
            files = zip(self._names[known].tolist(), self._ages[known].tolist(), strict=True)
            return self._write({os.fsdecode(file): since for file, since in files} | {name: age})
        self._keys[row], self._ages[row], self._names[row] = key, age, os.fsencode(name)
        self._bounds[row // BLOCK] = min(self._bounds[row // BLOCK], age)

    def remove(self, name: str) -> None:
        """Note that a file is gone."""
        if (row := self._find(name)[1]) is not None:
            self._keys[row], self._ages[row] = 0, NEVER
            self._add(name, -1)

    def oldest(self) -> Iterator[str]:
        """Yield the files in the order in which they were needed; each may be removed before the next."""
        bounds, blocks = self._bounds.copy(), dict[int, np.ndarray]()
        while bounds[block := int(bounds.argmin())] < NEVER:
            here = self._ages[block * BLOCK : (block + 1) * BLOCK]
            self._bounds[block] = here.min()
            ages = blocks.setdefault(block, here.copy())
            first = int(ages.argmin())
            if ages[first] > bounds[block]:  # files were touched since, or are passed
                bounds[block] = ages[first]
                continue
            ages[first], row = NEVER, block * BLOCK + first
            name = os.fsdecode(self._names[row])
            if not size_of(name) or row != self._find(name)[1]:  # damaged
                self._write(self._files())
                return (yield from self.oldest())
            yield name

    def _mapped(self) -> bool:
        """Return whether the file is there, and may be ours."""
        with suppress(OSError, ValueError), (self.folder / FILE).open("r+b", 0) as file:  # ValueError: empty
            memory = mmap.mmap(file.fileno(), 0)
            blocks = (len(memory) - _form(0).itemsize) // (_form(1).itemsize - _form(0).itemsize)
            if blocks > 0:
                self._all = np.ndarray((), _form(blocks), memory)
                self.total, self.fetching, self._bounds = (self._all[name] for name in ("total", "fetching", "bounds"))
                self._keys, self._ages, self._names = (self._all[name] for name in ("keys", "ages", "names"))
                return True
        return False

    def _seal(self) -> int:
        """Return what is sealed as long as this machine runs, and nobody has changed the folder's names."""
        facts = machine_tag(), self.folder.stat().st_mtime_ns, len(self._keys), int(self.total), int(self.fetching)
        return xxhash.xxh3_64_intdigest(repr(facts).encode())

    def _files(self) -> dict[str, int]:
        return {item.name: item.stat().st_mtime_ns for item in os.scandir(self.folder) if size_of(item.name)}

    def _write(self, files: Mapping[str, int]) -> None:
        """Make a new file, half full at most."""
        new = np.zeros((), _form(1 + 2 * len(files) // BLOCK))
        new["ages"] = new["bounds"] = NEVER
        new["salt"] = int.from_bytes(os.urandom(8))  # so that nobody can make names that collide
        part = self.folder / f".{FILE}.new"  # whoever touches a row without the lock meets a whole file
        with open_new(part) as file:
            file.write(new.tobytes())
        part.replace(self.folder / FILE)
        self._mapped()
        for name, age in files.items():
            self.put(name, age)

    def _find(self, name: str) -> tuple[int, int | None, int | None]:
        """Return the name's key, its row and an empty one, where there are any."""
        key = xxhash.xxh3_64_intdigest(os.fsencode(name), int(self._all["salt"])) or 1
        first = key % (len(self._keys) - NEAR)
        near = self._keys[first : first + NEAR].tolist()
        row, empty = (first + near.index(wanted) if wanted in near else None for wanted in (key, 0))
        return key, row, empty

    def _add(self, name: str, files: int) -> None:
        size = files * size_of(name)
        self.total += size
        self.fetching += size * name.endswith(PART)


def size_of(name: str) -> int:
    """Bytes of a file of a cache when it is complete; 0 of another's."""
    match = OURS.fullmatch(name)
    return int(match["size"]) if match else 0


@cache
def _form(blocks: int) -> np.dtype:
    facts = [("seal", "<u8"), ("salt", "<u8"), ("total", "<i8"), ("fetching", "<i8"), ("bounds", "<i8", blocks)]
    rows = BLOCK * blocks
    return np.dtype([*facts, ("keys", "<u8", rows), ("ages", "<i8", rows), ("names", "S256", rows)])
