"""Small images stacked in one array of an ``.npz``."""

import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np
import PIL.Image

from dira_scale.imaging.arrays import ArrayFile, open_array
from dira_scale.imaging.grey import FLAT, GreyImage, GreyWindow, check_size, store
from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.imaging.settings import ReadSettings
from dira_scale.storage.store import open_file


@dataclass(frozen=True)
class Member:
    """One image of an archive: the array's name, and the index along its first axis."""

    path: Path
    array: str
    index: int

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, settings: ReadSettings) -> GreyImage:
        """Raises RejectedError if the archive is damaged or the image is constant."""
        with rejects("the archive is damaged ({})"):
            pixels = np.asarray(mapped_array(self.path, self.array)[self.index])
        check_size(*pixels.shape[:2])
        grey = pixels if pixels.ndim == 2 else np.asarray(PIL.Image.fromarray(pixels).convert("L"))
        image = store(grey, GreyWindow(0, 255, 1), settings.bits)
        if image.flat:
            raise RejectedError(FLAT)
        return image


@lru_cache(maxsize=3)  # train, val, test
def mapped_array(path: Path, array: str) -> np.ndarray:
    """An array of an archive as a memory map, cached per process.

    Deflated members can only be read from the beginning, so the array is unpacked once into an unnamed file that
    disappears with the process; memory use does not depend on the array's size.
    """
    with open_file(path) as file, zipfile.ZipFile(file) as archive, archive.open(f"{array}.npy") as packed:
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115 (the map keeps it)
        shutil.copyfileobj(packed, unpacked)
    unpacked.seek(0)
    header = open_images(unpacked)
    return np.memmap(unpacked, np.uint8, "r", unpacked.tell(), header.shape)


def open_images(file: IO[bytes]) -> ArrayFile:
    """Raises RejectedError unless it is an array of uint8 in C order."""
    array = open_array(cast(BinaryIO, file))
    if array.dtype != np.uint8 or array.fortran:
        raise RejectedError(f"an array of {array.dtype}, not of uint8 in C order")
    return array
