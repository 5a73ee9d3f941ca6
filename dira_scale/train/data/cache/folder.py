"""A bounded folder of whole files that the processes of a node fill and read together.

    lock                            held for moments, by who adds or removes a name
    ages                            totals, and when each was needed last
    STEM-CHECKSUM-SIZE.tar          complete
    STEM-CHECKSUM-SIZE.tar.part     being fetched by the process that has it locked; left by a killed one if nobody has

All locks are the kernel's (flock), which ends them with their process, however that ends. Other files in the folder are
left alone.
"""

import fcntl
import os
import shutil
from collections.abc import Sequence
from enum import Enum
from io import FileIO
from pathlib import Path

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import own
from dira_scale.train.data.cache.ages import PART, Ages
from dira_scale.train.data.cache.settings import CacheSettings

MB, GB = 10**6, 10**9
SHARE = 0.5  # of the free space, where no size is given


class Claim(Enum):
    """Why a file is not to be fetched now."""

    COMPLETE = "it is there"
    ELSEWHERE = "another process or thread fetches it"
    FULL = "all others are being read or fetched at this moment"


class CacheFolder:
    """``most``: bytes of all files together at most, those being fetched counted in full."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most

    def used(self) -> int:
        """Bytes of complete files. Raises OSError where the folder cannot be written to."""
        with Ages(self.folder).held() as ages:
            return ages.total - ages.fetching

    def open(self, name: str) -> int | None:
        """Return a descriptor of a complete file, which is not removed until it is closed; None if it is not there."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def touch(self, names: Sequence[str]) -> list[str]:
        """Note that they are needed soon: the file for which this was longest ago is the first to be removed.

        Returns those that are not there.
        """
        absent = []
        for name in names:
            try:
                os.utime(self.folder / name)
            except FileNotFoundError:
                absent.append(name)
        Ages(self.folder).touch(names)
        return absent

    def claim(self, name: str, size: int) -> FileIO | Claim:
        """Return the locked file to be filled, with what an interrupted process has left in it; or why there is none.

        Room is made for it. Raises UserError if there is none to be made, OSError.
        """
        path = self.folder / f"{name}{PART}"
        with Ages(self.folder).held() as ages:
            if (self.folder / name).exists():
                return Claim.COMPLETE
            new = not path.exists()
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                room = self._make_room(ages, name, size)
            except BlockingIOError:
                file.close()
                return Claim.ELSEWHERE
            except BaseException:
                file.close()
                raise
            if not room:
                if new:
                    path.unlink()
                    ages.remove(path.name)
                file.close()
                return Claim.FULL
            return file

    def complete(self, file: FileIO, name: str) -> int:
        """Give a filled file its name; a descriptor as :meth:`open`'s."""
        with Ages(self.folder).held() as ages:
            (self.folder / f"{name}{PART}").replace(self.folder / name)
            os.utime(self.folder / name)
            ages.remove(f"{name}{PART}")
            ages.put(name)
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
        with Ages(self.folder).held() as ages:
            return self._make_room(ages, name, size)

    def drop(self, name: str) -> None:
        """Remove a file whose content is wrong."""
        with Ages(self.folder).held() as ages:
            (self.folder / name).unlink(missing_ok=True)
            ages.remove(name)

    def _make_room(self, ages: Ages, name: str, size: int) -> bool:
        """Remove what was needed longest ago until ``size`` bytes fit; False if it is in use."""
        if size > self.most:
            raise UserError(
                f"{name} has {size / MB:.1f} MB, but the cache {self.folder} may hold {self.most / MB:.1f} MB: give it "
                "a larger size (in GB), or a folder on a larger disk"
            )
        ages.put(f"{name}{PART}")
        free, present, in_use = shutil.disk_usage(self.folder).free, max(0, self.progress(name)), False
        others = (other for other in ages.oldest() if other != f"{name}{PART}")
        # Of files that others fetch all bytes count as still to come: how many are there is not looked at.
        while ages.total > self.most or free < ages.fetching - present:
            if other := next(others, None):
                try:
                    with (self.folder / other).open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        (self.folder / other).unlink()
                        free += os.fstat(file.fileno()).st_size
                except BlockingIOError:  # it is read or filled
                    in_use = True
                    continue
                except FileNotFoundError:
                    pass
                ages.remove(other)
            elif in_use:
                return False
            else:
                raise UserError(
                    f"the disk of the cache {self.folder} is full: {free / MB:.1f} MB are free, "
                    f"{(ages.fetching - present) / MB:.1f} MB are needed, and nothing of the cache is left to remove: "
                    "free some, or name a folder on another disk"
                )
        return True


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
