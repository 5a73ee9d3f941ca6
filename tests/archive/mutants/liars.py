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

SHORTS = (0, 1, 7, 255, 4096, 32768, 65535)
SHORT_TAGS = (0x02, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120)  # samples, sides, bits, sign, padding
NUMBER_TAGS = {0x08: "frames", 0x30: "spacing", 0x1050: "window or scale", 0x1051: "window or scale",
               0x1052: "window or scale", 0x1053: "window or scale"}  # fmt: skip
TEXT_TAGS = ((0x10, 0x10), (0x10, 0x20), (0x28, 0x04), (0x08, 0x16))  # name, number, photometry, class


def dicom_liars(seed: int) -> Iterator[Mutant]:
    """Elements of the wrong type, size and number, written without asking whether they may be."""
    content = dicom(picture(seed), NumberOfFrames="1", WindowCenter="2000", WindowWidth="3000", PixelSpacing=["1", "1"],
                    RescaleSlope="1", RescaleIntercept="0", PixelPaddingValue=0)  # fmt: skip

    def element(group: int, tag: int, value: bytes) -> bytes:
        start = content.index(struct.pack("<HH", group, tag), 132)
        (length,) = struct.unpack_from("<H", content, start + 6)
        value += b" " * (len(value) % 2)
        return content[: start + 6] + struct.pack("<H", len(value)) + value + content[start + 8 + length :]

    for tag in SHORT_TAGS:
        kind = "header lies: " + ("size" if tag in (0x10, 0x11) else "type of pixel")
        for value in SHORTS:
            yield file(kind, "short.dcm", element(0x28, tag, struct.pack("<H", value)))
        for wrong in (b"many", bytes(600), b""):
            yield file("header field of the wrong type", "type.dcm", element(0x28, tag, wrong))
    for tag, what in NUMBER_TAGS.items():
        for number in (*ODD_NUMBERS, "65535"):
            cell = f"{number}\\{number}" if what == "spacing" else number
            yield file(f"header lies: {what}", "number.dcm", element(0x28, tag, cell.encode()))
    for group, tag in TEXT_TAGS:
        for text in ODD_TEXTS:
            yield file("odd text in a header", "text.dcm", element(group, tag, text.encode()[:600]))
    syntax = content.index(struct.pack("<HH", 2, 0x10)) + 8
    for text in ODD_TEXTS[:4]:
        spoilt = content[:syntax] + text.encode()[:20].ljust(20, b"\0") + content[syntax + 20 :]
        yield file("odd text in a header", "syntax.dcm", spoilt)


def text_liars(whole: Mapping[str, bytes], name: str, separator: bytes) -> Iterator[Mutant]:
    """Each field of a MetaImage's or NRRD's header in turn with an odd word: alone, first, or in place of each word."""
    end = b"ElementDataFile = LOCAL\n" if name.endswith("mha") else b"\n\n"
    for line in whole[name].partition(end)[0].split(b"\n"):
        key, found, value = line.partition(separator)
        words = value.decode(errors="replace").split()
        for odd in (*ODD_NUMBERS, *ODD_TEXTS) if found else ():
            for cell in dict.fromkeys((odd, " ".join([odd, *words[1:]]), " ".join([odd] * len(words)))):
                kind = "odd text in a header" if odd in ODD_TEXTS else f"header lies: {name.rpartition('.')[2]}"
                yield files(kind, {**whole, name: whole[name].replace(line, key + found + cell.encode(), 1)})


NIFTI = {  # fields of NIfTI-1's header: where, and of which numbers
    "dim": (40, "8h"), "datatype": (70, "2h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"), "scl": (112, "2f"),
    "xyzt_units": (123, "B"), "form codes": (252, "2h"), "quatern": (256, "6f"), "srow": (280, "12f"),
    "magic": (344, "4s"), "sizeof_hdr": (0, "i"),
}  # fmt: skip
ODD_FIELDS: dict[str, tuple[object, ...]] = {
    "h": (0, -1, 1, 7, 32767, -32768, 128, 1536, 2304), "f": (0.0, -1.0, np.nan, np.inf, 1e38, -1e38, 1e-38),
    "B": (0, 255), "i": (0, 540, -1, 0x5C010000), "s": (b"ni1\0", b"n+2\0", b"abcd"),
}  # fmt: skip


def nifti_liars(plain: bytes) -> Iterator[Mutant]:
    """Each number of each field in turn."""
    for name, (start, form) in NIFTI.items():
        kind = {"dim": "header lies: size", "pixdim": "header lies: spacing"}.get(name, "header lies: nii")
        values = struct.unpack_from("<" + form, plain, start)
        for index in range(len(values)):
            for value in ODD_FIELDS[form[-1]]:
                spoilt = bytearray(plain)
                struct.pack_into("<" + form, spoilt, start, *values[:index], value, *values[index + 1 :])
                yield file(kind, f"{name}.nii", bytes(spoilt))


def array_liars(array: np.ndarray) -> Iterator[Mutant]:
    """NumPy's header is a Python literal; pickles must stay closed."""
    plain = numpy_file(array)
    for shape in ("()", "(0,)", "(48,)", "(-48, 40)", "(99999, 99999)", "(2147483648, 2147483648)", "(48, 40, 3)",
                  "(1, 1, 1, 1, 1, 48, 40)", "('a', 40)", "(48.5, 40)", "__import__('os').system('touch owned')",
                  "[" * 1000 + "]" * 1000):  # fmt: skip
        yield file("header lies: npy", "shape.npy", npy_header(plain, r"\(.*\)", shape))
    for kind in ("|O", "<f8", "<c16", "<M8[s]", "<U10", "|V4", ">u2", "<u8", "[('a', '<u2')]", "abc", "<i99"):
        yield file("header field of the wrong type", "type.npy", npy_header(plain, r"'<[ui]2'", repr(kind)))
    for value in (np.nan, np.inf, -np.inf, 1e308):
        floats = array.astype(np.float64)
        floats.flat[5] = value
        yield file("NaN and infinite values", "x.npy", numpy_file(floats))
        yield file("NaN and infinite values", "all.npy", numpy_file(np.full(array.shape, value)))
    pickled = io.BytesIO()
    np.save(pickled, np.array([_Touch()], object), allow_pickle=True)
    yield file("a pickle", "x.npy", pickled.getvalue())
    for names in ((), ("a.npy", "b.npy"), ("../../x.npy",), ("/etc/x.npy",), ("a.txt",), ("n" * 300 + ".npy",)):
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
    for width, height, bits, colour in (
        (0, 48, 16, 0), (2**31 - 1, 2**31 - 1, 16, 0), (9000, 9000, 16, 0), (40, 48, 3, 0), (40, 48, 16, 7),
        (40, 48, 8, 3), (40, 48, 16, 6), (41, 48, 16, 0), (40, 4800, 16, 0), (1, 48, 16, 0),
    ):  # fmt: skip
        yield file("header lies: size", "x.png", png_header(png, width, height, bits, colour))
    yield file(
        "odd text in a header", "text.png", png[:33] + png_chunk(b"tEXt", b"Comment\0" + NAME.encode()) + png[33:]
    )
    yield file("odd text in a header", "huge.png", png[:33] + struct.pack(">I", 2**31 - 1) + b"zTXt" + png[33:])
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    entries = range(directory + 2, directory + 2 + 12 * count, 12)
    for place in (start + field for start in entries for field in (4, 8)):  # how many values, and where they are
        for value in (0, 1, 2, 0xFFFF, 2**31 - 1, 2**32 - 1):
            yield file("header lies: tif", "x.tif", tiff[:place] + struct.pack("<I", value) + tiff[place + 4 :])
    looping = tiff[: entries.stop] + struct.pack("<I", directory) + tiff[entries.stop + 4 :]
    yield file("header lies: tif", "loop.tif", looping)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG's chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(png: bytes, width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG with another header."""
    return png[:8] + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)) + png[33:]
