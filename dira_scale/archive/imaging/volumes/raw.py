"""The result of every volume reader: the grid from the header, and a function that loads the voxels."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.geometry import Grid


class RawVolume(NamedTuple):
    """A volume as in its file, which must still be open for ``load()``.

    Attributes:
        grid: of the last three axes of ``load()``, unchecked.
        load: values of any type, [Z, Y, X] or [C, Z, Y, X]; raises RejectedError.
    """

    grid: Grid
    load: Callable[[], np.ndarray]


def data_file(path: Path, name: str) -> Path:
    """The data file that a header names. Raises RejectedError unless it is in the header's own folder."""
    if not name or len(name) > 255 or name in (".", "..") or set(name) & set("/\\\0%"):
        raise RejectedError("the header names a data file outside its folder, or several")
    file = path.parent / name
    if not file.is_file():
        raise RejectedError("the data file that the header names is missing")
    if file.is_symlink() and not file.resolve().is_relative_to(path.parent.resolve()):
        raise RejectedError("the data file that the header names is a link that leaves its folder")
    return file
