"""Small series and volumes, written by pydicom, nibabel and SimpleITK alone."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

from dira_scale.archive.imaging.settings import ReadSettings, VolumeSettings

UID = "1.2.826.0.1.3680043.8.498"
AXIAL = ((1.0, 0, 0), (0, 1.0, 0))


def smooth(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Whole numbers like HU, float64: a sum of slow waves along every axis, no symmetry."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.arange(n, dtype=float) for n in shape), indexing="ij")
    waves = [np.sin(sum(g * rng.uniform(0.03, 0.15) for g in grid) + rng.uniform(0, 6)) for _ in range(5)]
    return np.rint(300 * sum(waves))


def slice(path: Path, stored: np.ndarray, position: Sequence[float], turn: Any = AXIAL, **tags: Any) -> Path:
    """An uncompressed slice of int16 or uint16 [H, W]; ``position`` in DICOM's millimetres."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID}.1.{zlib.crc32(bytes(path))}"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.PatientID = f"{UID}.2.1", f"{UID}.3.1", "HOSP-7741903"
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *stored.shape, 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelRepresentation, ds.PhotometricInterpretation = int(stored.dtype == np.int16), "MONOCHROME2"
    ds.ImagePositionPatient = [round(float(p), 6) for p in position]
    ds.ImageOrientationPatient = [round(float(v), 8) for axis in turn for v in axis]
    ds.PixelSpacing, ds.SliceThickness = [0.8, 0.7], 2.0
    ds.RescaleSlope, ds.RescaleIntercept = 1, 0
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    for tag, value in tags.items():
        setattr(ds, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def series(
    folder: Path,
    values: np.ndarray,
    corner: Sequence[float] = (-20, -30, 40),
    turn: Any = AXIAL,
    step: Sequence[float] | Callable[[int], Sequence[float]] = (0, 0, 2.0),
    **tags: Any,
) -> list[Path]:
    """[Z, H, W]; slice k lies at ``corner + k * step``, or + ``step(k)``. Names and instance numbers tell nothing."""
    paths = []
    names = np.random.default_rng(1).permutation(len(values))
    for k, plane in enumerate(values):
        moved = np.array(step(k)) if callable(step) else k * np.array(step)
        path = folder / f"{names[k]:04d}.dcm"
        paths.append(slice(path, plane.astype(np.int16), corner + moved, turn, InstanceNumber=int(names[k]), **tags))
    return paths


def settings(modality: str = "CT", burned_in: str = "refuse", **volume: Any) -> ReadSettings:
    """The settings of ``recipe=volumes``, but for ``volume``."""
    keys = {"spacing": None, "clip": None, "range": (-1000, 1000), "crop": "none", "irregular": "resample"}
    return ReadSettings(3, modality, 16, burned_in, VolumeSettings(**(keys | volume)))


def change(path: Path, **tags: Any) -> Path:
    """Set elements of a file."""
    ds = pydicom.dcmread(path)
    for tag, value in tags.items():
        setattr(ds, tag, value)
    ds.save_as(path)
    return path


def sequence(**tags: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return [item]
