"""Files that every process of a node maps, and one of them makes: an index, a selection.

They lie where reading at random is cheap, on a disk of the node or in its memory, never on a network disk.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dira_scale.base.storage.atomic import publish

PATIENCE = 300.0  # seconds without a sign of life from the process that makes a file
POLL = 0.1  # seconds
UNUSED = 30 * 24 * 3600  # seconds without being opened after which a file is removed
MOUNTS = Path("/proc/self/mountinfo")
# What a read at random costs there is a request to a server.
NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs",
    "pvfs2", "smb3", "smbfs", "wekafs",
}  # fmt: skip


def made_once(name: str, make: Callable[[BinaryIO], None]) -> Path:
    """Return the node's file ``name``, which the first process that needs it makes.

    Args:
        name: of the file, which identifies its content.
        make: writes the content to an empty file; ``os.utime`` on it now and then tells the others that it goes on.

    Raises OSError where no folder can keep it; TimeoutError, if whoever makes it gives no sign of life for ``PATIENCE``
    seconds; and what ``make`` raises.
    """
    failed: OSError | None = None
    for parent, shared in _places():
        try:
            folder = parent / f"dira_scale-node-{os.getuid()}" if shared else parent
            if shared:
                folder.mkdir(mode=0o700, exist_ok=True)
                if folder.stat().st_uid != os.getuid():
                    raise PermissionError(f"{folder} belongs to another user")
            return _made(folder / "dira_scale" / "manifests", name, make)
        except TimeoutError:
            raise
        except OSError as error:
            failed = failed or error
    assert failed
    raise failed


def on_network(path: Path) -> bool:
    """Return whether ``path`` is on a network disk, as far as Linux's table of mounts says."""
    with suppress(OSError):
        lines = [line.split(" - ") for line in MOUNTS.read_text().splitlines()]
        kinds = {before.split()[4].encode().decode("unicode_escape"): after.split()[0] for before, after in lines}
        real = os.path.realpath(path)
        mounted = max((point for point in kinds if Path(real).is_relative_to(point)), key=len, default="/")
        return (kind := kinds.get(mounted, "")) in NETWORK or kind.startswith("fuse.")
    return False


def _places() -> Iterator[tuple[Path, bool]]:
    """Yield folders in the order of preference, and whether others write there: those that are named, the user's cache,
    the system's temporary folder, memory."""
    named = [Path(os.environ[name]).expanduser() for name in ("SLURM_TMPDIR", "XDG_CACHE_HOME") if os.environ.get(name)]
    home = [] if "XDG_CACHE_HOME" in os.environ else [Path("~/.cache").expanduser()]
    yield from ((folder, False) for folder in [*named, *home] if folder in named or not on_network(folder))
    if not on_network(temporary := Path(tempfile.gettempdir())):
        yield temporary, True
    yield Path("/dev/shm"), True


def _made(folder: Path, name: str, make: Callable[[BinaryIO], None]) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path, part, seen, since = folder / name, folder / f"{name}.tmp", None, time.monotonic()
    while True:
        if _size(path):
            with suppress(PermissionError):  # a cache that is only read: its owner sees to it
                os.utime(path)
            return path
        with open(part, "r+b", opener=lambda path, flags: os.open(path, flags | os.O_CREAT, 0o600)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                status = os.fstat(file.fileno())
                if (now := (status.st_size, status.st_mtime_ns)) != seen:
                    seen, since = now, time.monotonic()
                if time.monotonic() - since > PATIENCE:
                    text = f"another process makes {path}, and has not gone on for {PATIENCE:g} s"
                    raise TimeoutError(text) from error
                time.sleep(POLL)
                continue
            ours = False
            with suppress(FileNotFoundError):
                ours = os.path.samestat(os.fstat(file.fileno()), part.stat())
            if done := ours and _size(path) > 0:  # another process has finished it between the two looks
                part.unlink()
            if done or not ours:  # whoever had it has finished it, or failed
                continue
            try:
                file.truncate(0)
                make(file)
                file.flush()
                publish(part, path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        for old in folder.iterdir():
            with suppress(OSError):  # another process removes it
                if time.time() - old.stat().st_mtime > UNUSED:
                    old.unlink()
        return path


def _size(path: Path) -> int:
    """Return a file's bytes; 0 if it is not there."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
