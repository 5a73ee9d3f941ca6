"""Files as a source finds them: all that lie below a folder, how large one is, what its DICOM header says."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dira_scale.ingest.dicom import is_dicom, read_header
from dira_scale.ingest.verdict import BadImage, judged


def files_below(root: Path) -> Iterator[Path]:
    """All files at any depth but hidden ones, through symbolic links; a folder that is met again is left out.

    Raises OSError when a folder cannot be listed.
    """

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


def real(path: Path) -> Path:
    """The file itself, whatever symbolic links and ``..`` lead to it."""
    return Path(os.path.realpath(path))


def size_of(path: Path) -> int:
    """Bytes. Raises BadImage for what is no file, not there, or not ours to read."""
    with judged("the file cannot be read ({})"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not a regular file")
    if not os.access(path, os.R_OK):
        raise BadImage("the file cannot be read (PermissionError)")
    return status.st_size


def header_of(path: Path) -> dict[str, str]:
    """What ``read_header`` finds in a DICOM file; nothing of another file. Raises BadImage."""
    with judged("the file cannot be read ({})"), path.open("rb") as file:
        return read_header(file) if is_dicom(file) else {}
