"""One small valid file of every kind that the converter takes."""

# ruff: noqa: E501, C408 (tables of tags)
import gzip
import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pydicom
import SimpleITK
import tifffile
from archive.mutants.damage import NAME
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID


def picture(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """Waves and noise, uint16 [H, W] of 12 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    return (2000 + 1500 * np.sin(x / 9 + seed) * np.cos(y / 7) + rng.normal(0, 40, (height, width))).astype(np.uint16)


def voxels(seed: int) -> np.ndarray:
    """int16 [18, 20, 22], -1000 to 1000."""
    z, y, x = np.mgrid[:18, :20, :22]
    noise = np.random.default_rng(seed).normal(0, 20, z.shape)
    return np.rint(900 * np.sin(x / 5 + seed) * np.cos(y / 4) * np.sin(z / 3 + 1) + noise).astype(np.int16)


def dicom(pixels: np.ndarray, syntax: str = "1.2.840.10008.1.2.1", **tags: object) -> bytes:
    """uint8 or uint16 [H, W] or [N, H, W], in any of the transfer syntaxes of ``SYNTAXES``."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid = UID(syntax)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{zlib.crc32(pixels.tobytes())}"
    ds.PatientName, ds.PatientID = NAME, f"HOSP-{zlib.crc32(pixels.tobytes())}"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *pixels.shape[-2:], 1
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.itemsize
    ds.HighBit, ds.PixelRepresentation, ds.PhotometricInterpretation = ds.BitsStored - 1, 0, "MONOCHROME2"
    for name, value in tags.items():
        setattr(ds, name, value)
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    frames = pixels if pixels.ndim == 3 else pixels[None]
    if uid.is_compressed and uid != pydicom.uid.DeflatedExplicitVRLittleEndian:
        ds.PixelData = encapsulate([SYNTAXES[syntax](frame) for frame in frames])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    else:
        order = ">" if uid == pydicom.uid.ExplicitVRBigEndian else "<"
        ds.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        ds["PixelData"].VR = "OW"
    target = io.BytesIO()
    pydicom.dcmwrite(target, ds, enforce_file_format=True)
    return target.getvalue()


def rtstruct(
    rois: Mapping[str, Sequence[np.ndarray]], series: str = "1.2.4", patient: str = "P", **tags: object
) -> bytes:
    """Contours of each ROI, float [n, 3] in DICOM's millimetres, drawn on a series (PS3.3 A.19)."""
    ds, uid = Dataset(), "1.2.840.10008.5.1.4.1.1.481.3"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = uid, f"2.25.{zlib.crc32(repr(rois).encode())}", "RTSTRUCT"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = uid, ds.SOPInstanceUID
    ds.PatientName, ds.PatientID, ds.SeriesInstanceUID = NAME, patient, "1.2.5"
    referred: object = series
    for keyword in ("SeriesInstanceUID", "RTReferencedSeriesSequence", "RTReferencedStudySequence",
                    "ReferencedFrameOfReferenceSequence"):  # fmt: skip
        item = Dataset()
        setattr(item, keyword, referred)
        referred = [item]
    ds.update(item)
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName, drawn.ContourSequence = name, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.5f}" for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    target = io.BytesIO()
    pydicom.dcmwrite(target, ds, enforce_file_format=True)
    return target.getvalue()


def run_lengths(frame: np.ndarray) -> bytes:
    """PS3.5 G, by Pillow's neighbour in packing bits."""
    segments = [imagecodecs.packbits_encode(np.ascontiguousarray(part), axis=-1)
                for part in ((frame >> 8).astype(np.uint8), frame.astype(np.uint8))]  # fmt: skip
    segments = [part + bytes(len(part) % 2) for part in segments]
    return struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)


SYNTAXES: dict[str, Callable[[np.ndarray], bytes]] = {
    "1.2.840.10008.1.2": bytes,
    "1.2.840.10008.1.2.1": bytes,
    "1.2.840.10008.1.2.2": bytes,
    "1.2.840.10008.1.2.1.99": bytes,
    "1.2.840.10008.1.2.5": run_lengths,
    "1.2.840.10008.1.2.4.50": lambda frame: imagecodecs.jpeg8_encode((frame >> 4).astype(np.uint8)),
    "1.2.840.10008.1.2.4.70": lambda frame: imagecodecs.jpeg8_encode(frame, lossless=True, bitspersample=16),
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode,
    "1.2.840.10008.1.2.4.90": lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True),
    "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode,
}


def raster(pixels: np.ndarray, kind: str, **keys: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind, **keys)
    return target.getvalue()


def png(seed: int, *sides: int) -> bytes:
    """A picture of 8 bits."""
    return raster((picture(seed, *sides) >> 4).astype(np.uint8), "PNG")


def numpy_file(array: np.ndarray, compressed: bool | None = None) -> bytes:
    """A ``.npy``; with ``compressed`` an ``.npz``."""
    target = io.BytesIO()
    if compressed is None:
        np.save(target, array)
    else:
        (np.savez_compressed if compressed else np.savez)(target, array=array)
    return target.getvalue()


def images(seed: int) -> dict[str, dict[str, bytes]]:
    """One image of each kind: its files by their names."""
    grey = picture(seed)
    small = (grey >> 4).astype(np.uint8)
    made = {f"{syntax.rpartition('.')[2]}.dcm": dicom(grey, syntax) for syntax in SYNTAXES}
    made |= {
        "50.dcm": dicom(grey, "1.2.840.10008.1.2.4.50", BitsAllocated=8, BitsStored=8, HighBit=7),
        "frames.dcm": dicom(np.stack([grey, picture(seed + 1000)])),
        "window.dcm": dicom(grey, WindowCenter=2000, WindowWidth=3000, RescaleSlope=1, RescaleIntercept=-100,
                            PixelPaddingValue=0, PixelSpacing=["0.2", "0.2"]),
        "8.png": png(seed),
        "16.png": raster(grey, "PNG"),
        "x.jpg": raster(small, "JPEG", quality=90),
        "8.tif": raster(small, "TIFF", compression="tiff_lzw"),
        "16.tif": raster(grey, "TIFF", compression="tiff_adobe_deflate"),
        "x.npy": numpy_file(grey),
        "x.npz": numpy_file(grey, compressed=True),
    }  # fmt: skip
    return {name: {name: content} for name, content in made.items()}


@cache
def volumes(seed: int) -> dict[str, dict[str, bytes]]:
    """One volume of each kind: its files by their names."""
    frames = {"frames.dcm": series_files(voxels(seed), seed, whole=True)[0]}
    return stacks(voxels(seed)) | {"frames.dcm": frames, "series": series(seed)}


def stacks(array: np.ndarray) -> dict[str, dict[str, bytes]]:
    """int16 [Z, Y, X] in each kind of file but DICOM, on one grid where the kind knows millimetres."""
    nifti = nibabel.Nifti1Image(array.T, np.diag([-0.7, -0.8, 2.0, 1]))
    nifti.header["descrip"] = NAME.encode()
    plain, tiff = nifti.to_bytes(), io.BytesIO()
    tifffile.imwrite(tiff, (array - array.min()).astype(np.uint16), photometric="minisblack")
    made = {
        "x.nii": plain, "x.nii.gz": gzip.compress(plain, 1), "x.npy": numpy_file(array), "x.tif": tiff.getvalue(),
        "x.npz": numpy_file(array, compressed=True),
    }  # fmt: skip
    by_itk = {name: itk(array, name) for name in ("x.mha", "z.mha", "x.mhd", "x.nrrd", "z.nrrd")}
    return {name: {name: content} for name, content in made.items()} | by_itk


def itk(array: np.ndarray, name: str) -> dict[str, bytes]:
    """The files that SimpleITK writes, compressed if the name begins with z."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.0))
    with tempfile.TemporaryDirectory() as folder:
        SimpleITK.WriteImage(image, f"{folder}/{name}", useCompression=name.startswith("z"))
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def series(seed: int) -> dict[str, bytes]:
    """The slices of a series of its own."""
    return {f"{number}.dcm": content for number, content in enumerate(series_files(voxels(seed), seed))}


def series_files(array: np.ndarray, seed: int, whole: bool = False) -> list[bytes]:
    """CT slices, each a file; or ``whole``, one file of frames."""
    shown = (array.astype(np.int32) + 1024).astype(np.uint16)
    tags = dict(
        SeriesInstanceUID=f"1.2.826.0.1.3680043.8.498.2.{seed}", Modality="CT", ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        PixelSpacing=[0.8, 0.7], SliceThickness=2.0, RescaleSlope=1, RescaleIntercept=-1024, PatientID=f"HOSP-{seed}",
    )  # fmt: skip
    if whole:
        return [dicom(shown, ImagePositionPatient=[0, 0, 0], SpacingBetweenSlices=2.0, **tags)]
    codings = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"]
    return [
        dicom(plane, codings[seed % 3], ImagePositionPatient=[0, 0, 2.0 * k], **tags) for k, plane in enumerate(shown)
    ]
