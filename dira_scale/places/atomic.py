"""Writing files so that a reader sees the old content or the new, never half of it."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: str | bytes, check: Callable[[], None] = lambda: None) -> None:
    """Write to a temporary name beside ``path``, flush to the disk, rename if ``check`` does not raise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
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


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
