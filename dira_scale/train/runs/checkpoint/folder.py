"""The folder of a run's checkpoints: a local one, or a prefix of an object store through fsspec.

They differ in how a checkpoint becomes complete. A local folder is renamed once everything is written. Objects cannot
be renamed, so in a store the index is written last.
"""

import errno
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from dira_scale.base.errors import UserError
from dira_scale.base.storage import atomic, store
from dira_scale.base.storage.atomic import sync_folder, write_atomic
from dira_scale.base.storage.store import as_os_error, is_local
from dira_scale.train.runs.complete import INDEX, complete, numbered
from dira_scale.train.runs.lease import LeaseLostError

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
TORN = re.compile(r"[0-9]{9}(\.[0-9]+\.tmp|(\.[0-9]+\.tmp)?\.old[0-9]*\.tmp)")  # named by unfinished_path, remove


def make_folder(folder: Path) -> None:
    """Create the folder of checkpoints, but never a bucket: a mistyped name would create one that costs money."""
    folder.mkdir(parents=not folder.drive, exist_ok=True)


@contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turn a failing read or write of ``checkpoint.folder`` inside into a ``UserError`` that names it."""
    try:
        with as_os_error(folder, LeaseLostError):
            yield
    except OSError as error:
        raise UserError(f"checkpoint.folder={folder} cannot be used: {error}") from error


def require_space(folder: Path, size: int) -> None:
    """Raise ``UserError`` if the disk of a local folder of checkpoints has less than ``size`` bytes free."""
    if is_local(folder) and (free := shutil.disk_usage(folder).free) < size:
        raise UserError(
            f"{folder} has {free / 1e6:,.0f} MB free, and a checkpoint of this run takes at least "
            f"{size / 1e6:,.0f} MB: free some space, or name a folder on another disk, checkpoint.folder=…"
        )


@contextmanager
def unless_absent(path: Path) -> Iterator[None]:
    """Turn a failing read of ``path`` inside into a ``UserError``, which tells nothing about the file; that there is no
    such file is raised as it is."""
    try:
        with as_os_error(path):
            yield
    except ABSENT:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be read now ({type(error).__name__}: {error}): fix access, disk or network, or try again"
        ) from error


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; of a larger one nothing is read.

    Raises:
        FileNotFoundError, IsADirectoryError, NotADirectoryError: there is no such file.
        ValueError: it is larger.
        UserError: the disk or the store fails.
    """
    with unless_absent(path):
        if (size := size_of_file(path)) <= most:
            return path.read_bytes()
    raise ValueError(f"{size:,} bytes, more than {most:,}")


def size_of_file(path: Path) -> int:
    """Bytes of a regular file: a link to /dev/zero has no end. Raises OSError."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return about.st_size


def remedy(folder: Path, error: OSError) -> str:
    """Return what to do about a failed write to ``folder``, as the beginning of a sentence."""
    advice = atomic.remedy(error).capitalize()
    return advice if is_local(folder) or advice != "Fix the disk" else "Fix the store, access to it or the network"


def folder_name(step: int) -> str:
    return f"{step:09d}"


def unfinished_path(folder: Path, name: str, lease: int) -> Path:
    return folder / f"{name}.{lease}.tmp" if is_local(folder) else folder / name


def publish(written: Path, final: Path, index: str, check_lease: Callable[[], None]) -> None:
    """Turn ``written``, which has all parts, into the checkpoint ``final``.

    ``check_lease`` is called at the last moment and may raise to prevent it.
    """
    if is_local(final) and final.exists():
        return remove(written)  # ``final`` is the same step of the same run
    write_atomic(written / INDEX, index, check_lease)
    if is_local(final):
        check_lease()
        written.replace(final)
        sync_folder(final.parent)


def remove(folder: Path) -> None:
    """Remove a checkpoint, complete or not. If this is interrupted, what is left does not count as a checkpoint."""
    if is_local(folder):
        doomed = _unused_path(folder.parent, f"{folder.name}.old{{}}.tmp")
        folder.replace(doomed)  # first: a process that still writes to it must fail, instead of adding files
        while doomed.exists():
            with suppress(FileNotFoundError):  # another process removed a file
                shutil.rmtree(doomed)
        return
    (folder / INDEX).unlink(missing_ok=True)
    store.remove(folder)


def clean_up(folder: Path, damaged: Iterable[str]) -> None:
    """Before the first write of a run: remove unfinished checkpoints of a killed process, rename damaged ones.

    Raises UserError if the disk or the store fails.
    """
    with as_user_error(folder):
        complete_names = {path.name for path in complete(folder)}
        torn = [path for path in folder.iterdir() if TORN.fullmatch(path.name)]
        for half in [*torn, *(path for path in numbered(folder) if path.name not in complete_names)]:
            with suppress(FileNotFoundError):  # its own process, about to end, removed it first
                half.unlink() if half.is_file() else remove(half)
        for name in damaged:
            source, target = folder / name, _unused_path(folder, f"{name}.damaged{{}}")
            if is_local(source):
                source.rename(target)
                continue
            target.mkdir(exist_ok=True)
            for file in list(source.iterdir()):
                write_atomic(target / file.name, file.read_bytes())
            remove(source)


def _unused_path(folder: Path, name: str) -> Path:
    """A new path in ``folder``: ``name`` with nothing in its braces, or else the lowest unused number."""
    return next(path for i in count() if not (path := folder / name.format(i or "")).exists())
