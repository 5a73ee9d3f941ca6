"""Writing files so that a reader sees the old content or the new, never half of it; in folders and stores alike."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dira_scale.places.store import as_os_error, is_local, upload


def write_atomic(path: Path, content: str | bytes, check: Callable[[], None] = lambda: None) -> None:
    """Write a file, unless ``check`` raises at the last moment.

    On a disk: written to a temporary name beside ``path``, flushed, renamed. In a store: one request.

    Raises OSError.
    """
    data = content.encode() if isinstance(content, str) else content
    if not is_local(path):
        check()
        with as_os_error(path):
            path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # half a file would fill a full disk further
    sync_folder(path.parent)


def write_json(path: Path, value: Any, check: Callable[[], None] = lambda: None) -> None:
    """``value`` as indented JSON, by :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1) + "\n", check)


def publish(written: Path, final: Path) -> None:
    """Move a whole file to the name where others look for it: flushed and renamed on a disk, else uploaded.

    ``written`` lies on this machine, on the disk of ``final`` where that is local. Raises OSError.
    """
    if not is_local(final):
        upload(written, final)
        return written.unlink()
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
