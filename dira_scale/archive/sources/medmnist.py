"""MedMNIST's archives of small 2D images: arrays in an ``.npz``, already split (Yang et al., Scientific Data 2023)."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from dira_scale.archive.imaging.arrays import ArrayFile, open_array
from dira_scale.archive.imaging.colour import chosen
from dira_scale.archive.imaging.files import size_of
from dira_scale.archive.imaging.grey import FLAT, GreyImage, GreyWindow, check_size, luminance, store
from dira_scale.archive.imaging.rejection import RejectedError, rejects
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.store import locate, open_file


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
        if pixels.ndim == 3:
            pixels = chosen(settings.colour, lambda: pixels, lambda: luminance(pixels), 255)
        image = store(pixels, GreyWindow(0, 255, 1), settings.bits)
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


SPLITS = ("train", "val", "test")


class MedMnist:
    """Patients are unknown: each image counts as its own patient. The archive's splits are kept.

    Args:
        images: the ``.npz`` file.
        classes: names of the labels; null: ``label_0`` and so on. Several columns of 0 and 1 are used as labels; one
            column of two classes becomes one label (1 for the second class), of more classes one label each.

    Raises:
        UserError: the file is missing or not such an archive; the number of names is not that of labels.
    """

    def __init__(self, images: PathStr, classes: Sequence[str] | None = None):
        self.path = locate(images, "recipe.images")
        if not self.path.is_file():
            raise ArgumentError("images", images, "the .npz of one of the sets; there is no such file")
        self.labels: dict[str, np.ndarray] = {}  # [images, columns]
        try:
            with open_file(self.path) as file, zipfile.ZipFile(file) as archive:
                for split in SPLITS:
                    with archive.open(f"{split}_images.npy") as array:
                        shape = open_images(array).shape
                    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
                        raise ValueError(f"{split}_images has shape {shape}: neither grey nor colour images")
                    with archive.open(f"{split}_labels.npy") as array:
                        labels = open_array(cast(BinaryIO, array)).values()
                    if labels.ndim != 2 or len(labels) != shape[0] or (labels < 0).any():
                        raise ValueError(f"{split}_labels has shape {labels.shape} for {shape[0]} images")
                    self.labels[split] = labels
        except (RejectedError, zipfile.BadZipFile, ValueError, KeyError) as error:
            raise ArgumentError("images", images, f"an archive of MedMNIST's 2D sets ({error})") from error
        columns = {labels.shape[1] for labels in self.labels.values()}
        if columns == {1} and (count := 1 + max(int(labels.max()) for labels in self.labels.values())) > 2:
            one_hot = np.eye(count, dtype=np.uint8)
            self.labels = {split: one_hot[labels[:, 0]] for split, labels in self.labels.items()}
        width = {labels.shape[1] for labels in self.labels.values()}
        if len(width) > 1 or (classes is not None and {len(classes)} != width):
            raise ArgumentError("classes", classes, f"{max(width)}, as {images} has so many labels")
        self.label_names: Sequence[str] = classes or [f"label_{n}" for n in range(width.pop())]

    def records(self, workers: int) -> Iterator[SourceRecord]:
        size = size_of(self.path)
        for split, labels in self.labels.items():
            for index, row in enumerate(labels):
                name, image = f"{self.path.stem}/{split}/{index}", Member(self.path, f"{split}_images", index)
                yield SourceRecord(name, image, labels=tuple(map(float, row)), split=split, size=size)
