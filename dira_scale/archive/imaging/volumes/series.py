"""A DICOM series as one volume: one file per slice, or frames of one file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.archive.imaging.burned_in import check_header
from dira_scale.archive.imaging.dicom.frames import DicomFile, Plane
from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.regrid import Stack
from dira_scale.archive.imaging.volumes.slice_position import EXTRA, place_slices, planes_of
from dira_scale.archive.imaging.volumes.values import to_volume

MODALITIES = ("CT", "MR", "PT", "NM")  # DICOM modalities that are volumes; a recipe may name others


@dataclass(frozen=True)
class Series:
    """The files of one series, in any order; a ``SourceImage``.

    Archives have millions of slices, so the names are kept in one string.
    """

    folder: Path
    names: str  # separated by NUL, which no file name can contain

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> "Series":
        """``names`` are relative to ``folder``."""
        return cls(folder, "\0".join(names))

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.names.split("\0"))

    def read(self, settings: ReadSettings) -> Volume:
        """Raises RejectedError (GeometryError: the slices do not form a volume).

        OSError and MemoryError are not the files' fault.
        """
        slices = _DecodedSlices()
        paths = self.paths
        for path in paths:
            with opened(path) as file:
                dicom = DicomFile(file, EXTRA)
                modality = dicom.header.get("Modality") or settings.modality
                if modality != settings.modality and settings.modality in MODALITIES:
                    named = modality if modality in MODALITIES else "another modality"  # a header may hold any text
                    raise RejectedError(f"DICOM says {named}, not {settings.modality}", decided_by="modality")
                if settings.burned_in != "keep":
                    check_header(dicom.header)
                slices.add(dicom, len(paths))
        order, geometry = place_slices(slices.planes, slices.values.shape[1:])
        return to_volume(geometry, lambda: slices.filled(order), settings)

    def grids(self) -> tuple[Grid | None, Grid]:
        """From the headers alone: the grid of the sorted slices, if they form one, and of the volume as read.

        Raises as ``read``.
        """
        planes: list[Plane] = []
        size = (0, 0)
        for path in self.paths:
            with opened(path) as file:
                dicom = DicomFile(file, EXTRA)
                planes += planes_of(dicom)
                size = dicom.shape
        _, geometry = place_slices(planes, size)
        return (None, geometry.grid.turned()) if isinstance(geometry, Stack) else (geometry, geometry.turned())


class _DecodedSlices:
    """Decoded frames in one array, whose type widens as needed."""

    def __init__(self) -> None:
        self.planes: list[Plane] = []
        self.values = np.empty((0, 0, 0), np.int16)
        self._padding: dict[int, np.ndarray] = {}  # by frame, packed bits
        self._floor = np.inf  # smallest value other than padding

    def add(self, dicom: DicomFile, files: int) -> None:
        """Add all frames of one of ``files`` files."""
        if not self.planes:
            Grid((files * dicom.count, *dicom.shape), np.eye(4)).check()
            self.values = np.empty((files * dicom.count, *dicom.shape), np.int16)
        if dicom.shape != self.values.shape[1:]:
            raise GeometryError("slices of different sizes")
        for number, plane in enumerate(planes_of(dicom)):
            frame, index = dicom.frame(number), len(self.planes)
            if frame.top is not None:
                raise RejectedError("slices in colour")
            if index >= len(self.values):
                raise GeometryError("files of different numbers of frames")
            values = inside = frame.values
            if frame.padding.any():
                self._padding[index] = np.packbits(frame.padding)
                inside = values[~frame.padding]
            if inside.size:
                low, high = inside.min(), inside.max()
                self._floor = min(self._floor, low)
                if values.dtype.kind == "f" or low < -(2**15) or high >= 2**15:
                    kind = np.float32 if values.dtype.kind == "f" else np.int32
                    self.values = self.values.astype(np.result_type(self.values, kind), copy=False)
            np.copyto(self.values[index], values, casting="unsafe")
            self.planes.append(plane)

    def filled(self, order: np.ndarray) -> np.ndarray:
        """[N, H, W] in ``order``; padding gets the smallest real value, so that it neither shows nor smears."""
        if len(self.planes) < len(self.values):
            raise GeometryError("files of different numbers of frames")
        for index, bits in self._padding.items():
            where = np.unpackbits(bits, count=self.values[index].size).reshape(self.values[index].shape)
            self.values[index][where.astype(bool)] = self._floor if np.isfinite(self._floor) else 0
        return self.values if (order == np.arange(len(order))).all() else self.values[order]
