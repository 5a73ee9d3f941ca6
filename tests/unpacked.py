"""The tar archives of the tests."""

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Its files, into ``folder``. Debian 12's own Python, 3.11.2, knows no filter; a later one warns without it."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
