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
from archive.mutants.damage import Mutant, file
from archive.mutants.liars import npy_header, png_chunk, png_header
from archive.mutants.valid import dicom, numpy_file, picture, raster

ZEROS = bytes(2**26)


def bombs(dims: int) -> Iterator[Mutant]:
    """Kilobytes that ask for up to a terabyte, a kind for each reader."""
    shape = (48, 40) if dims == 2 else (18, 20, 22)
    made: list[tuple[str, Callable[[], bytes]]] = [
        ("deflated.dcm", _deflated_dicom),
        *[("x.npz", partial(_npz, shape, claimed)) for claimed in (shape, (*shape[:-1], 2**20))],
        ("overlap.npz", partial(_npz, shape, shape, 100)),
    ]
    if dims == 2:
        made += [("x.png", partial(_png, side, side)) for side in (8192, 60000)]
        made += [("text.png", _png_of_texts), ("x.jpg", _jpeg)]
        made.append(("x.tif", partial(raster, np.zeros((8000, 8000), np.uint8), "TIFF", compression="tiff_lzw")))
        made += [
            (f"{syntax}.dcm", partial(dicom, np.zeros((6000, 6000), np.uint16), f"1.2.840.10008.1.2.{syntax}"))
            for syntax in ("4.70", "4.80", "4.90", "5")
        ]
    else:
        for side in (20, 1290, 32767):
            made += [
                ("x.nii.gz", partial(_nifti, side)),
                ("x.nrrd", partial(_nrrd, side)),
                ("x.mha", partial(_mha, side)),
            ]
        made += [("line.mha", lambda: b"ObjectType = " + ZEROS), ("line.nrrd", lambda: b"NRRD0004\n" + b"#\n" * 2**20)]
    for name, content in made:
        yield file(f"decompression bomb: {name.rpartition('.')[2]}", name, content)


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
    """Half a gigabyte of zeros: deflated blocks that may be repeated, behind those of the header."""
    whole = dicom(picture(0), "1.2.840.10008.1.2.1.99")
    begin = 144 + int.from_bytes(whole[140:144], "little")  # behind the file's own group
    header, pixels, _ = zlib.decompress(whole[begin:], -15).rpartition(b"\xe0\x7f\x10\x00OW\0\0")
    assert header
    parts = zlib.compressobj(9, wbits=-15), zlib.compressobj(9, wbits=-15)
    first, zeros = (
        part.compress(content) + part.flush(zlib.Z_FULL_FLUSH)
        for part, content in zip(parts, (header + pixels + struct.pack("<I", 8 * len(ZEROS)), ZEROS), strict=True)
    )
    return whole[:begin] + first + 8 * zeros + parts[0].flush()


def _npz(shape: tuple[int, ...], claimed: tuple[int, ...], entries: int = 1) -> bytes:
    """With several ``entries`` the archive's directory names one file as many overlapping arrays."""
    packed, header = io.BytesIO(), npy_header(numpy_file(np.zeros(shape, np.int16))[:128], r"\(.*\)", str(claimed))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header + ZEROS)
        archive.filelist *= entries
    return packed.getvalue()


def _nifti(side: int) -> bytes:
    header = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<3h", header, 42, side, side, side)
    return gzip.compress(bytes(header), 9) + _gzipped()


def _nrrd(side: int) -> bytes:
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {side} {side} {side}\nencoding: gzip\nendian: little\n\n"
    return header.encode() + _gzipped()


def _mha(side: int) -> bytes:
    header = (f"ObjectType = Image\nNDims = 3\nDimSize = {side} {side} {side}\nElementType = MET_SHORT\n"
              "CompressedData = True\nCompressedDataSize = 99\nElementDataFile = LOCAL\n")  # fmt: skip
    return header.encode() + zlib.compress(ZEROS, 9)
