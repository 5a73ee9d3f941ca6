"""Atomic writes, in folders and stores: a reader sees the old content or the new, never a part."""

import errno
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import as_os_error, is_local

FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


def write_atomic(
    path: Path,
    content: str | bytes | bytearray,
    check: Callable[[], None] = lambda: None,
    private: bool = False,
    new: bool = False,
) -> None:
    """Write a file, unless ``check``, called right before it becomes visible, raises.

    On a disk: write to a temporary name beside ``path``, flush, rename. In a store: one request. Only its owner can
    read a ``private`` file on a disk. One that is ``new`` there replaces none.

    Raises OSError; FileExistsError where a file that must be new is there, as for all but one of several processes.
    """
    data = content.encode() if isinstance(content, str) else content
    if not is_local(path):
        check()
        with as_os_error(path):
            path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{machine_tag()}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open_new(temporary, private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        check()
        (_link if new else Path.replace)(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # a partial file must not take space on a full disk
    sync_folder(path.parent)


def _link(written: Path, path: Path) -> None:
    try:
        path.hardlink_to(written)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, where a reader may see the file empty
        path.touch(exist_ok=False)
        written.replace(path)


def open_new(path: Path, private: bool = False) -> BinaryIO:
    """Open a new file for writing in the place of ``path``: what a killed process left there, or a link, which is not
    followed. Only its owner can read a ``private`` one."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb")


@cache
def machine_tag() -> str:
    """Eight hexadecimal digits of this machine's processes: process ids mean nothing beyond them."""
    return hashlib.sha256(f"{socket.gethostname()} {process_namespace()}".encode()).hexdigest()[:8]


def process_namespace() -> str | None:
    """Identifies the PID namespace, as machines, and containers on a machine, may share a host name.

    None without /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def write_json(path: Path, value: Any, check: Callable[[], None] = lambda: None, new: bool = False) -> None:
    """``value`` as indented JSON, by :func:`write_atomic`."""
    write_atomic(path, json.dumps(value, indent=1) + "\n", check, new=new)


@contextmanager
def as_user_error(path: Path, key: str) -> Iterator[None]:
    """Turn a failing write of ``path`` inside, a command's product, into a ``UserError`` with what to do."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        raise UserError(f"{path} cannot be written ({what}): {remedy(error)}, or name another, {key}=…") from error


def remedy(error: OSError) -> str:
    if error.errno in FULL:
        return "free some space"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "allow this user to write there"
    return "fix the disk"


def publish(written: Path, final: Path) -> None:
    """Move a complete file to its final name: flush and rename on a disk, else upload.

    ``written`` is a local file, on the same disk as ``final`` where that is local. Raises OSError.
    """
    if not is_local(final):
        with as_os_error(final):
            final.fs.put_file(str(written), final.path)  # type: ignore[attr-defined]
        return written.unlink()
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
