"""Files as a source finds them: all that lie below a folder, how large one is, what its DICOM header says."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dira_scale.errors import UserError
from dira_scale.imaging.dicom import is_dicom, read_header
from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.places.store import is_local, locate, numbered, refusals

BLOCK = 2**17  # bytes that are fetched of an object at a time to read its header


def folder_at(images: str, key: str = "recipe.images") -> Path:
    """The folder, or prefix of a store, that ``images`` names. Raises UserError when there is none."""
    root = real(locate(images, key))
    with refusals(root):
        if not root.is_dir():
            raise UserError(f"{key}={images}: no such folder")
    return root


def files_below(root: Path) -> Iterator[Path]:
    """All files at any depth but hidden ones, through symbolic links; a folder that is met again is left out.

    Raises OSError when a folder cannot be listed.
    """
    if not is_local(root):
        yield from (path for path, _ in objects_below(root))
        return

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def objects_below(root: Path) -> Iterator[tuple[Path, int]]:
    """All objects of a store below ``root`` but hidden ones, with their bytes. Raises OSError."""
    with refusals(root):
        for folder, folders, files in root.fs.walk(root.path, detail=True, on_error="raise"):  # type: ignore[attr-defined]
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            below = root.joinpath(*PurePosixPath(folder).relative_to(root.path).parts)  # type: ignore[attr-defined]
            for name in sorted(files):
                if name and not name.startswith("."):
                    yield below / name, files[name]["size"]


def real(path: Path) -> Path:
    """The file itself, whatever symbolic links and ``..`` lead to it."""
    return Path(os.path.realpath(path)) if is_local(path) else path.resolve()


def size_of(path: Path) -> int:
    """Bytes. Raises RejectedError for what is no file, not there, or not ours to read."""
    with rejects("the file cannot be read ({})"), numbered(path):
        if not is_local(path):
            return int(path.fs.size(path.path))  # type: ignore[attr-defined]
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RejectedError("not a regular file")
    if not os.access(path, os.R_OK):
        raise RejectedError("the file cannot be read (PermissionError)")
    return status.st_size


def header_of(path: Path) -> dict[str, str]:
    """What ``read_header`` finds in a DICOM file; nothing of another file. Raises RejectedError."""
    few = {} if is_local(path) else {"block_size": BLOCK}
    with rejects("the file cannot be read ({})"), refusals(path), path.open("rb", **few) as file:  # type: ignore[call-overload]
        return read_header(file) if is_dicom(file) else {}
