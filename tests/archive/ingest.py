"""Tests of conversions read these small folders of images, made by Pillow and pydicom alone, and recipes."""

from collections.abc import Mapping
from copy import deepcopy
from csv import DictWriter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from omegaconf import OmegaConf
from PIL import Image
from pydicom.dataset import FileMetaDataset

from dira_scale.base.config.compose import compose

IDENTITY = {
    "PatientName": "Quillfeather^Osbertina",
    "PatientID": "HOSP-7741903",
    "PatientBirthDate": "19320417",
    "InstitutionName": "Saint Vorgath Infirmary",
    "ReferringPhysicianName": "Drumwhistle^Alaric",
    "AccessionNumber": "ACC55018822",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.771",
    "DeviceSerialNumber": "SER99117",
}


HASH_KEY = "a key for tests only, of some length"


def picture(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """uint8 [height, width], smooth with noise; no two seeds give the same."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    return np.clip(120 + 90 * np.sin(x / 9 + seed) * np.cos(y / 7) + rng.normal(0, 4, (height, width)), 0, 255).astype(
        np.uint8
    )


def dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    """An uncompressed 12-bit radiograph with an identity that must not survive."""
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{abs(hash(path.name))}"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *pixels.shape[:2], 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelRepresentation, ds.PhotometricInterpretation = int(pixels.dtype == np.int16), "MONOCHROME2"
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    for tag, value in (IDENTITY | tags).items():
        setattr(ds, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


def csv(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        table = DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def recipe(name: str, /, **keys: Any) -> dict[str, Any]:
    """The recipe as ``python -m dira_scale.shard`` composes it, with ``keys`` replaced; its name is not that of out."""
    config = deepcopy(composed(name, tuple(key for key in ("images", "labels", "sequences") if key in keys)))
    return config | {"name": config["name"] or name} | keys


@cache
def composed(name: str, must: tuple[str, ...]) -> Any:
    """It takes a few tenths of a second, and is wanted by most tests."""
    words = [f"recipe={name}", "out=unset", *(f"recipe.{key}=unset" for key in must)]
    return OmegaConf.to_container(compose("shard", words).recipe, resolve=True)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a dataset."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def source_of(folder: Path) -> dict[str, Any]:
    """The keys of the recipe ``folder`` for a ``png_folder``."""
    columns = {"file": "file", "patient": "patient", "study": None, "split": None, "mask": "mask"}
    return {"images": str(folder / "images"), "labels": str(folder / "labels.csv"), "columns": columns}


def pngs(folder: Path, count: int = 24) -> Path:
    """So many PNG of 8 patients with a CSV: two labels, one of them unknown at times; masks for the first ten."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / "images" / f"im{number:02d}.png")
        mask = f"masks/m{number:02d}.png" if number < 10 else ""
        if mask:
            Image.fromarray((picture(number) > 128).astype(np.uint8) * 255).save(folder / mask)
        rows.append(
            {
                "file": f"im{number:02d}.png",
                "patient": f"P{number % 8}",
                "nodule": number % 2,
                "mass": "" if number % 3 else 1,
                "mask": mask,
            }
        )
    csv(folder / "labels.csv", rows)
    return folder
