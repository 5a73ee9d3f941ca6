"""A bounded folder of whole files that the processes of a node fill and read together.

    lock                            held for moments, by who adds or removes a name
    STEM-CHECKSUM-SIZE.tar          complete
    STEM-CHECKSUM-SIZE.tar.part     being fetched by the process that has it locked; left by a killed one if nobody has

All locks are the kernel's (flock), which ends them with their process, however that ends. Other files in the folder are
left alone.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from io import FileIO
from pathlib import Path

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import own
from dira_scale.train.data.cache.settings import CacheSettings

PART, LOCK = ".part", "lock"
OURS = re.compile(r".+-[0-9a-f]{16}-(?P<size>\d+)\.\w+(?P<part>\.part)?")
MB, GB = 10**6, 10**9
SHARE = 0.5  # of the free space, where no size is given


class Claim(Enum):
    """Why a file is not to be fetched now."""

    COMPLETE = "it is there"
    ELSEWHERE = "another process or thread fetches it"
    FULL = "all others are being read or fetched at this moment"


@dataclass(frozen=True)
class Entry:
    """A file of the cache, complete or not."""

    path: Path
    size: int  # of the complete file
    present: int  # bytes so far
    used: float  # when it was last needed, seconds since 1970


class CacheFolder:
    """``most``: bytes of all files together at most, those being fetched counted in full."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def used(self) -> int:
        """Bytes on the disk now. Raises OSError where the folder cannot be written to."""
        with self._alone():
            return sum(entry.present for entry in self._entries())

    def open(self, name: str) -> int | None:
        """Return a descriptor of a complete file, which is not removed until it is closed; None if it is not there."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def touch(self, name: str) -> bool:
        """Note that it is needed soon: the file for which this was longest ago is the first to be removed.

        False if it is not there.
        """
        try:
            os.utime(self.folder / name)
        except FileNotFoundError:
            return False
        return True

    def claim(self, name: str, size: int) -> FileIO | Claim:
        """Return the locked file to be filled, with what an interrupted process has left in it; or why there is none.

        Room is made for it. Raises UserError if there is none to be made, OSError.
        """
        path = self.folder / f"{name}{PART}"
        with self._alone():
            if (self.folder / name).exists():
                return Claim.COMPLETE
            new = not path.exists()
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                room = self._make_room(path, size)
            except BlockingIOError:
                file.close()
                return Claim.ELSEWHERE
            except BaseException:
                file.close()
                raise
            if not room:
                if new:
                    path.unlink()
                file.close()
                return Claim.FULL
            return file

    def complete(self, file: FileIO, name: str) -> int:
        """Give a filled file its name; a descriptor as :meth:`open`'s."""
        with self._alone():
            (self.folder / f"{name}{PART}").replace(self.folder / name)
            self.touch(name)
            descriptor = os.open(self.folder / name, os.O_RDONLY)
            file.close()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def progress(self, name: str) -> int:
        """Bytes of a file that another process fetches."""
        try:
            return (self.folder / f"{name}{PART}").stat().st_size
        except FileNotFoundError:
            return -1

    def make_room(self, name: str, size: int) -> bool:
        """Again, for a claimed file, because others fill the disk too. Raises as :meth:`claim`."""
        with self._alone():
            return self._make_room(self.folder / f"{name}{PART}", size)

    def drop(self, name: str) -> None:
        """Remove a file whose content is wrong."""
        with self._alone():
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _entries(self) -> list[Entry]:
        entries = []
        for item in os.scandir(self.folder):
            if match := OURS.fullmatch(item.name):
                status = item.stat()
                entries.append(Entry(Path(item.path), int(match["size"]), status.st_size, status.st_mtime))
        return entries

    def _make_room(self, file: Path, size: int) -> bool:
        """Remove what was needed longest ago until ``size`` bytes fit; False if it is in use."""
        if size > self.most:
            raise UserError(
                f"{file.name.removesuffix(PART)} has {size / MB:.1f} MB, but the cache {self.folder} may hold "
                f"{self.most / MB:.1f} MB: give it a larger size (in GB), or a folder on a larger disk"
            )
        entries = sorted(self._entries(), key=lambda entry: entry.used)
        others = [entry for entry in entries if entry.path != file]
        present = sum(entry.present for entry in entries if entry.path == file)
        used = sum(entry.size for entry in others)
        free = shutil.disk_usage(self.folder).free - sum(
            entry.size - entry.present for entry in others if _in_use(entry)
        )
        kept = 0
        for entry in others:
            if used + size <= self.most and free >= size - present:
                return True
            if _remove(entry.path):
                used, free = used - entry.size, free + entry.present
            else:
                kept += 1
        if used + size <= self.most and free >= size - present:
            return True
        if kept:
            return False
        raise UserError(
            f"the disk of the cache {self.folder} is full: {free / MB:.1f} MB are free, {(size - present) / MB:.1f} MB "
            "are needed, and nothing of the cache is left to remove: free some, or name a folder on another disk"
        )


def open_cache(settings: CacheSettings) -> CacheFolder:
    """Return the folder, made if need be, with its bound in bytes.

    Raises ArgumentError if it cannot be written to, or belongs to another user; UserError if it holds other files than
    a cache's.
    """
    folder = settings.location
    try:
        folder.mkdir(mode=0o700 if settings.folder is None else 0o777, parents=True, exist_ok=True)
        if settings.folder is None and folder.stat().st_uid != os.getuid():  # anyone may write to the system's folder
            raise PermissionError(f"{folder} belongs to another user")
        own(folder, "cached shards", "cache")
        cache = CacheFolder(folder, 0)
        room = shutil.disk_usage(folder).free + cache.used()
    except OSError as error:
        raise ArgumentError("folder", str(folder), f"another folder: {error.strerror or error}") from error
    cache.most = int(room * SHARE if settings.size is None else settings.size * GB)
    return cache


def _in_use(entry: Entry) -> bool:
    """Return whether a process is still filling this entry."""
    if entry.path.suffix != PART:
        return False
    with suppress(FileNotFoundError), entry.path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove(path: Path) -> bool:
    """Unless it is read or filled."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
