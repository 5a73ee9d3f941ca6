"""What every reader of volumes gives: where the voxels are, from the header, and how to get them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volumes.geometry import Grid


class Raw(NamedTuple):
    """A volume as its file holds it; the file must still be open when it is loaded.

    Attributes:
        grid: of ``load()``'s last three axes, unchecked.
        load: values of any type, [Z, Y, X] or [C, Z, Y, X]; raises RejectedError.
    """

    grid: Grid
    load: Callable[[], np.ndarray]


def beside(path: Path, name: str) -> Path:
    """The file of values that a header names. Raises RejectedError when none such lies in the header's own folder."""
    if not name or len(name) > 255 or name in (".", "..") or set(name) & set("/\\\0%"):
        raise RejectedError("the header names a file of values that does not lie beside it, or several")
    file = path.parent / name
    if not file.is_file():
        raise RejectedError("the file of values that the header names is not there")
    return file
