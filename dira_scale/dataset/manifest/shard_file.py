"""A shard's file: whether it is there, and reads at an offset."""

import os
import stat
from pathlib import Path

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.store import as_os_error, is_local, with_errno


def require_shard(file: Path, size: int) -> None:
    """Raise DatasetError unless a shard of ``size`` bytes is there, by one question."""
    again = "copy it again from its origin, or shard again"
    try:
        with with_errno(file):
            status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(f"shard {file} is missing: {again}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"shard {file} is missing: something else has its name; {again}")
    if status.st_size != size:
        raise DatasetError(f"shard {file} has {status.st_size} bytes instead of {size}: {again}")


class ShardFile:
    """A file descriptor, closed with its last reference, even after eviction from the cache. In a store nothing is
    open: each read is a request."""

    def __init__(self, path: Path):
        self.path, self.descriptor = path, None  # so that __del__ finds it where opening fails
        self.descriptor = os.open(path, os.O_RDONLY) if is_local(path) else None

    def read(self, count: int, offset: int) -> bytes:
        """``count`` bytes at ``offset``, or fewer at the file's end."""
        if self.descriptor is not None:
            return os.pread(self.descriptor, count, offset)
        with as_os_error(self.path):
            return self.path.fs.cat_file(self.path.path, start=offset, end=offset + count)  # type: ignore[attr-defined]

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer from ``offset``; returns the number of bytes, fewer than its own at the file's end."""
        if self.descriptor is not None:
            return os.preadv(self.descriptor, [buffer], offset)
        part = self.read(len(buffer), offset)
        buffer[: len(part)] = part
        return len(part)

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
