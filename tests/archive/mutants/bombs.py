"""Files that are much larger than they look."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial

import nibabel
import numpy as np
import pydicom
from archive.mutants.damage import Mutant, file
from archive.mutants.liars import npy_header, png_chunk, png_header
from archive.mutants.valid import dicom, numpy_file, picture, raster
from PIL import Image

ZEROS = bytes(2**26)


def bombs(dims: int) -> Iterator[Mutant]:
    """Kilobytes that ask for up to a terabyte."""

    def bomb(name: str, content: Callable[..., bytes], *given: object) -> Mutant:
        return file("decompression bomb", name, partial(content, *given))

    yield bomb("deflated.dcm", _deflated_dicom)
    shape = (48, 40) if dims == 2 else (18, 20, 22)
    for claimed in (shape, (*shape[:-1], 2**20), (2**14,) * len(shape)):
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            yield bomb("x.npz", _npz, shape, claimed, method)
    yield bomb("overlap.npz", _npz, shape, shape, zipfile.ZIP_DEFLATED, 100)
    if dims == 2:
        for width, height in ((8192, 8192), (60000, 60000), (40, 48)):
            yield bomb("x.png", _png, width, height)
        yield bomb("text.png", _png_of_texts)
        yield bomb("x.jpg", _jpeg)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield bomb("x.tif", partial(raster, np.zeros((8000, 8000), np.uint8), "TIFF", compression=kind))
        for syntax in ("4.70", "4.80", "4.90", "5"):
            yield bomb("x.dcm", lambda s: dicom(np.zeros((6000, 6000), np.uint16), f"1.2.840.10008.1.2.{s}"), syntax)
        return
    for x, y, z in ((22, 20, 18), (1290, 1290, 1290), (32767, 32767, 32767)):
        yield bomb("x.nii.gz", _nifti, x, y, z)
        nrrd = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {x} {y} {z}\nencoding: gzip\nendian: little\n"
        yield bomb("x.nrrd", lambda header: header.encode() + _gzipped(), nrrd + "\n")
        yield bomb("skip.nrrd", lambda header: header.encode() + _gzipped(), nrrd + "byte skip: 999999999999\n\n")
        meta = (f"ObjectType = Image\nNDims = 3\nDimSize = {x} {y} {z}\nElementType = MET_SHORT\n"
                "CompressedData = True\nCompressedDataSize = 99\nElementDataFile = LOCAL\n")  # fmt: skip
        yield bomb("x.mha", lambda header: header.encode() + zlib.compress(ZEROS, 9), meta)
    yield bomb("line.mha", lambda: b"ObjectType = " + ZEROS)
    yield bomb("line.nrrd", lambda: b"NRRD0004\n" + b"#\n" * 2**20)
    page = Image.fromarray(np.zeros((20, 22), np.uint8))
    yield bomb("pages.tif", lambda: raster(np.asarray(page), "TIFF", save_all=True, append_images=[page] * 1000))


@cache
def _gzipped() -> bytes:
    """Half a gigabyte in half a megabyte, in several members."""
    return gzip.compress(ZEROS, 9) * 8


def _png(width: int, height: int) -> bytes:
    png = raster(picture(0), "PNG")
    rows = png_chunk(b"IDAT", zlib.compress(bytes((1 + 8192 * 2) * 8192), 9))
    return png_header(png[:33], width, height, 16, 0) + rows + png[-12:]


def _png_of_texts() -> bytes:
    png = raster(picture(0), "PNG")
    return png[:33] + png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(ZEROS, 9)) * 20 + png[33:]


def _jpeg() -> bytes:
    jpeg = raster((picture(0) >> 4).astype(np.uint8), "JPEG")
    sides = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:sides] + struct.pack(">HH", 65500, 65500) + jpeg[sides + 4 :]


def _deflated_dicom() -> bytes:
    deflated, ds = io.BytesIO(), pydicom.dcmread(io.BytesIO(dicom(picture(0), "1.2.840.10008.1.2.1.99")))
    ds.PixelData = ZEROS * 8
    ds.save_as(deflated)
    return deflated.getvalue()


def _npz(shape: tuple[int, ...], claimed: tuple[int, ...], method: int, entries: int = 1) -> bytes:
    """With several ``entries`` the archive's directory names one file as many overlapping arrays."""
    packed, header = io.BytesIO(), npy_header(numpy_file(np.zeros(shape, np.int16))[:128], r"\(.*\)", str(claimed))
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a.npy", header + ZEROS)
        archive.filelist *= entries
    return packed.getvalue()


def _nifti(*sides: int) -> bytes:
    header = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<3h", header, 42, *sides)
    return gzip.compress(bytes(header), 9) + _gzipped()
