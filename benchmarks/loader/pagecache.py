"""Files out of the kernel's page cache, and whether they are."""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def evict(paths: Iterable[Path]) -> float:
    """Ask the kernel to drop the pages of ``paths``; the share that stays.

    A file that another process maps stays. A virtual disk may have a cache of its own, which nobody here can see.
    """
    resident = pages = 0
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # dirty pages are not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            result = _resident(file.fileno())
            resident, pages = resident + int(result.sum()), pages + len(result)
    return resident / max(1, pages)


def _resident(descriptor: int) -> np.ndarray:
    """Of each page of a file, whether it is in memory: bool [pages]."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return np.zeros(0, bool)
    libc = ctypes.CDLL(None, use_errno=True)
    told = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        code = libc.mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(told.ctypes.data))
        del view  # the map cannot close under it
    if code:
        raise OSError(ctypes.get_errno(), "mincore")
    return (told & 1).astype(bool)
