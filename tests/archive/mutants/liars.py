"""Headers that lie: the wrong type, size, number or text in each of their fields."""

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from archive.mutants.damage import NAME, ODD_NUMBERS, ODD_TEXTS, Mutant, file, files
from archive.mutants.valid import dicom, numpy_file, picture, raster

SHORTS = tuple(struct.pack("<H", number) for number in (0, 1, 7, 255, 4096, 32768, 65535))
SHORT_TAGS = (0x02, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120)  # samples, sides, bits, sign, padding
NUMBER_TAGS = (0x08, 0x30, 0x1050, 0x1051, 0x1052, 0x1053)  # frames, spacing, window, scale
TEXT_TAGS = ((0x10, 0x10), (0x10, 0x20), (0x28, 0x04), (0x08, 0x16), (0x02, 0x10))  # names, photometry, class, coding


def dicom_liars(seed: int) -> Iterator[Mutant]:
    """Elements of the wrong type, size and number, written without asking whether they may be."""
    content = dicom(picture(seed), NumberOfFrames="1", WindowCenter="2000", WindowWidth="3000", PixelSpacing=["1", "1"],
                    RescaleSlope="1", RescaleIntercept="0", PixelPaddingValue=0)  # fmt: skip
    lies = [(f"header lies: {tag:x}", 0x28, tag, value) for tag in SHORT_TAGS for value in (*SHORTS, b"many", b"")]
    for tag in NUMBER_TAGS:
        for number in (*ODD_NUMBERS, "65535"):
            cell = f"{number}\\{number}" if tag == 0x30 else number
            lies.append((f"header lies: {tag:x}", 0x28, tag, cell.encode()))
    lies += [("odd text in a header", *tag, text.encode()[:600]) for tag in TEXT_TAGS for text in ODD_TEXTS]
    for kind, group, tag, value in lies:
        start = content.index(struct.pack("<HH", group, tag), 132)
        (length,) = struct.unpack_from("<H", content, start + 6)
        even = value + b" " * (len(value) % 2)
        spoilt = content[: start + 6] + struct.pack("<H", len(even)) + even + content[start + 8 + length :]
        yield file(kind, "x.dcm", spoilt)


def text_liars(whole: Mapping[str, bytes], name: str, separator: bytes) -> Iterator[Mutant]:
    """Each field of a MetaImage's or NRRD's header in turn with an odd word: alone, or in place of each word."""
    end = b"ElementDataFile = LOCAL\n" if name.endswith("mha") else b"\n\n"
    for line in whole[name].partition(end)[0].split(b"\n"):
        key, found, value = line.partition(separator)
        for odd in (*ODD_NUMBERS, *ODD_TEXTS) if found else ():
            kind = "odd text in a header" if odd in ODD_TEXTS else f"header lies: {name.rpartition('.')[2]}"
            for cell in {odd, " ".join([odd] * len(value.split()))}:
                yield files(kind, {**whole, name: whole[name].replace(line, key + found + cell.encode(), 1)})


# Fields of NIfTI-1's header, by place: dim, datatype, pixdim, vox_offset, scl, codes, quatern, srow, magic.
NIFTI = {40: "8h", 70: "2h", 76: "8f", 108: "f", 112: "2f", 252: "2h", 256: "6f", 280: "12f", 344: "4s"}
ODD_FIELDS: dict[str, tuple[object, ...]] = {
    "h": (0, -1, 7, 32767, -32768, 128, 1536), "f": (0.0, -1.0, np.nan, np.inf, 1e38, 1e-38), "s": (b"ni1\0", b"abcd"),
}  # fmt: skip


def nifti_liars(plain: bytes) -> Iterator[Mutant]:
    """Each number of each field in turn."""
    for start, form in NIFTI.items():
        values = struct.unpack_from("<" + form, plain, start)
        for index in range(len(values)):
            for value in ODD_FIELDS[form[-1]]:
                spoilt = bytearray(plain)
                struct.pack_into("<" + form, spoilt, start, *values[:index], value, *values[index + 1 :])
                yield file(f"header lies: byte {start}", "x.nii", bytes(spoilt))


def array_liars(array: np.ndarray) -> Iterator[Mutant]:
    """NumPy's header is a Python literal; pickles must stay closed."""
    plain = numpy_file(array)
    for shape in ("()", "(0,)", "(48,)", "(-48, 40)", "(99999, 99999)", "(2147483648, 2147483648)", "(48, 40, 3)",
                  "('a', 40)", "__import__('os').system('touch owned')", "[" * 1000 + "]" * 1000):  # fmt: skip
        yield file("header lies: npy", "shape.npy", npy_header(plain, r"\(.*\)", shape))
    for kind in ("|O", "<c16", "<M8[s]", "<U10", "|V4", "<u8", "[('a', '<u2')]", "abc"):
        yield file("header lies: type of npy", "type.npy", npy_header(plain, r"'<[ui]2'", repr(kind)))
    for value in (np.nan, np.inf, 1e308):
        floats = array.astype(np.float64)
        floats.flat[5] = value
        yield file("NaN and infinite values", "x.npy", numpy_file(floats))
    pickled = io.BytesIO()
    np.save(pickled, np.array([_Touch()], object), allow_pickle=True)
    yield file("a pickle", "x.npy", pickled.getvalue())
    for names in ((), ("a.npy", "b.npy"), ("../../x.npy",), ("a.txt",)):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, plain)
        yield file("path-like names in an archive", "x.npz", packed.getvalue())


class _Touch:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("owned",)


def npy_header(plain: bytes, field: str, by: str) -> bytes:
    """An array's file with another text for ``field`` in its header."""
    header = re.sub(field, lambda _: by, plain[10:128].decode().rstrip(), count=1) + "\n"
    return plain[:6] + b"\2\0" + struct.pack("<I", len(header)) + header.encode() + plain[128:]


def raster_liars(pixels: np.ndarray) -> Iterator[Mutant]:
    """PNG with right checksums and wrong sizes, TIFF with wild numbers in each entry of its directory."""
    png, tiff = raster(pixels, "PNG"), raster(pixels, "TIFF")
    for width, height, bits, colour in ((0, 48, 16, 0), (2**31 - 1, 2**31 - 1, 16, 0), (9000, 9000, 16, 0),
                                        (40, 48, 3, 0), (40, 48, 16, 7), (40, 48, 8, 3), (1, 48, 16, 0)):  # fmt: skip
        yield file("header lies: png", "x.png", png_header(png, width, height, bits, colour))
    text = png_chunk(b"tEXt", b"Comment\0" + NAME.encode())
    yield file("odd text in a header", "text.png", png[:33] + text + png[33:])
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    for start in range(directory + 2, directory + 2 + 12 * count, 12):
        for place in (start + 4, start + 8):  # how many values, and where they are
            for value in (0, 2, 0xFFFF, 2**31 - 1, 2**32 - 1):
                spoilt = tiff[:place] + struct.pack("<I", value) + tiff[place + 4 :]
                yield file("header lies: tif", "x.tif", spoilt)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG's chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(png: bytes, width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG with another header."""
    return png[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)) + png[33:]
