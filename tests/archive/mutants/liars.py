"""Headers that lie: the wrong type, size, number or text in each of their fields."""

# ruff: noqa: E501 (tables of odd values)
import gzip
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from archive.mutants.mutant import NAME, ODD_NUMBERS, ODD_TEXTS, Mutant, file, files
from archive.mutants.valid import dicom, numpy_file, picture, raster


def dicom_liars(seed: int) -> Iterator[Mutant]:
    """Elements of the wrong type, size and number, written without asking whether they may be."""
    content = dicom(picture(seed), NumberOfFrames="1", WindowCenter="2000", WindowWidth="3000", PixelSpacing=["1", "1"],
                    RescaleSlope="1", RescaleIntercept="0", PixelPaddingValue=0)  # fmt: skip

    def element(tag: tuple[int, int], value: bytes, code: bytes | None = None) -> bytes:
        head = struct.pack("<HH", *tag)
        start = content.index(head + (code or b""), 132)
        kind, (length,) = content[start + 4 : start + 6], struct.unpack_from("<H", content, start + 6)
        value += b" " * (len(value) % 2)
        return content[:start] + head + kind + struct.pack("<H", len(value)) + value + content[start + 8 + length :]

    shorts = (0, 1, 7, 255, 4096, 32768, 65535)
    for name, tag in {"Rows": 0x10, "Columns": 0x11, "BitsAllocated": 0x100, "BitsStored": 0x101, "HighBit": 0x102,
                      "PixelRepresentation": 0x103, "SamplesPerPixel": 0x02, "PixelPaddingValue": 0x120}.items():  # fmt: skip
        for value in shorts:
            yield file("header lies: " + ("size" if tag in (0x10, 0x11) else "type of pixel"), f"{name}.dcm",
                       element((0x28, tag), struct.pack("<H", value)))  # fmt: skip
        yield file("header field of the wrong type", "text.dcm", element((0x28, tag), b"many"))
        yield file("header field of the wrong type", "long.dcm", element((0x28, tag), bytes(600)))
        yield file("header field of the wrong type", "none.dcm", element((0x28, tag), b""))
    for tag in (0x08, 0x30, 0x1050, 0x1051, 0x1052, 0x1053):
        for number in ODD_NUMBERS:
            kind = "spacing" if tag == 0x30 else "frames" if tag == 0x08 else "window or scale"
            cell = f"{number}\\{number}" if tag == 0x30 else number
            yield file(f"header lies: {kind}", "number.dcm", element((0x28, tag), cell.encode()))
    for tag in ((0x10, 0x10), (0x10, 0x20), (0x28, 0x04), (0x08, 0x16)):
        for text in ODD_TEXTS:
            yield file("odd text in a header", "text.dcm", element(tag, text.encode()[:600]))
    for text in ODD_TEXTS[:4]:
        meta = content.index(struct.pack("<HH", 2, 0x10))
        yield file("odd text in a header", "syntax.dcm", content[: meta + 8] + text.encode()[:20].ljust(20, b"\0")
                   + content[meta + 28 :])  # fmt: skip
    frames = dicom(np.stack([picture(seed), picture(seed + 1000)]), NumberOfFrames="2")
    yield file("header lies: frames", "65536.dcm", frames.replace(b"IS\2\0002 ", b"IS\6\00065536 "[:4] + b"65536 "))
    yield file("header lies: frames", "65535.dcm", element((0x28, 0x08), b"65535"))


def text_liars(whole: dict[str, bytes], name: str, sep: bytes) -> Iterator[Mutant]:
    """Each field of a MetaImage's or NRRD's header in turn with something odd."""
    header, _, _ = whole[name].partition(b"ElementDataFile = LOCAL\n" if name.endswith("mha") else b"\n\n")
    for line in header.split(b"\n"):
        key, found, value = line.partition(sep)
        if not found:
            continue
        words = value.decode().split()
        for odd in (*ODD_NUMBERS, *ODD_TEXTS):
            for cell in {odd, " ".join([odd, *words[1:]]), " ".join([odd] * len(words))}:
                kind = "odd text in a header" if odd in ODD_TEXTS else f"header lies: {name.rpartition('.')[2]}"
                spoilt = whole[name].replace(line, key + found + cell.encode(), 1)
                yield files(kind, {**whole, name: spoilt})


def nifti_liars(plain: bytes) -> Iterator[Mutant]:
    """Fields of NIfTI-1's header, by their places in it."""
    places = {"dim": (40, "8h"), "datatype": (70, "2h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
              "scl": (112, "2f"), "xyzt_units": (123, "B"), "form codes": (252, "2h"), "quatern": (256, "6f"),
              "srow": (280, "12f"), "magic": (344, "4s"), "sizeof_hdr": (0, "i")}  # fmt: skip
    odd: dict[str, tuple[object, ...]] = {
        "h": (0, -1, 1, 7, 32767, -32768, 128, 1536, 2304), "f": (0.0, -1.0, float("nan"), float("inf"), 1e38, -1e38, 1e-38),
        "B": (0, 255), "i": (0, 540, -1, 0x5C010000), "s": (b"ni1\0", b"n+2\0", b"abcd"),
    }  # fmt: skip
    for name, (start, form) in places.items():
        values = struct.unpack_from("<" + form, plain, start)
        for index in range(len(values)):
            for value in odd[form[-1]]:
                changed = [*values[:index], value, *values[index + 1 :]]
                spoilt = bytearray(plain)
                struct.pack_into("<" + form, spoilt, start, *changed)
                kind = {"dim": "header lies: size", "pixdim": "header lies: spacing"}.get(name, "header lies: nii")
                yield file(kind, f"{name}.nii", bytes(spoilt))
                yield file(kind, f"{name}.nii.gz", gzip.compress(bytes(spoilt), 1))


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
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("owned",)


def npy_header(plain: bytes, field: str, by: str) -> bytes:
    header = re.sub(field, lambda _: by, plain[10:128].decode().rstrip(), count=1) + "\n"
    return plain[:6] + b"\2\0" + struct.pack("<I", len(header)) + header.encode() + plain[128:]


def raster_liars(seed: int) -> Iterator[Mutant]:
    """PNG with right checksums and wrong sizes, TIFF with wild numbers."""
    png, tiff = raster(picture(seed), "PNG"), raster(picture(seed), "TIFF")
    for width, height, bits, colour in ((0, 48, 16, 0), (40, 0, 16, 0), (2**31 - 1, 2**31 - 1, 16, 0), (9000, 9000, 16, 0),
                                        (8192, 8192, 16, 0), (40, 48, 3, 0), (40, 48, 16, 7), (40, 48, 8, 3), (40, 48, 16, 6),
                                        (41, 48, 16, 0), (40, 4800, 16, 0), (1, 48, 16, 0)):  # fmt: skip
        yield file("header lies: size", "x.png", png_header(png, width, height, bits, colour))
    chunk = b"tEXtComment\0" + NAME.encode() * 10
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    yield file("odd text in a header", "text.png", png[:33] + text + png[33:])
    yield file("odd text in a header", "huge.png", png[:33] + struct.pack(">I", 2**31 - 1) + b"zTXt" + png[33:])
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    for number in range(count):
        entry = directory + 2 + 12 * number
        for value in (0, 1, 2, 0xFFFF, 2**31 - 1, 2**32 - 1):
            yield file("header lies: tif", "x.tif", tiff[: entry + 8] + struct.pack("<I", value) + tiff[entry + 12 :])
            yield file("header lies: tif", "x.tif", tiff[: entry + 4] + struct.pack("<I", value) + tiff[entry + 8 :])
    looping = bytearray(tiff)
    struct.pack_into("<I", looping, directory + 2 + 12 * count, directory)
    yield file("header lies: tif", "loop.tif", bytes(looping))


def png_header(png: bytes, width: int, height: int, bits: int, colour: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
