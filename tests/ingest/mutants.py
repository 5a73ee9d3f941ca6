"""Files of every kind that the converter takes, and what accident or malice makes of them. Seeded: the same each time.

``images`` and ``volumes`` are the small valid files; ``damaged`` spoils any of them, ``liars`` have headers that lie,
``bombs`` are much larger than they look, ``places`` are odd names, links and things that are no files.
"""

# ruff: noqa: E501, C408 (tables of odd values)
import gzip
import io
import os
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import nibabel
import numpy as np
import pydicom
import SimpleITK
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

NAME = "Quillfeather^Osbertina"  # stands in every header: must come out nowhere
ODD_NUMBERS = (
    "0",
    "-1",
    "-0.5",
    "nan",
    "inf",
    "1e308",
    "-1e999",
    "65536",
    "2147483648",
    "99999999999999999999",
    "",
    "x",
)
ODD_TEXTS = ("../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x.raw", "%s%n%03d.raw 1 9 1", "LIST", "\x1b[2J",
             "=1+1", NAME * 20, "\0", "None")  # fmt: skip


class Mutant(NamedTuple):
    """What is done to a folder: ``kind`` for the table of outcomes."""

    kind: str
    place: Callable[[Path], object]  # makes it, in a folder of its own


def file(kind: str, name: str | bytes, content: bytes | Callable[[], bytes]) -> Mutant:
    """One that is a file; ``content`` may be made when it is wanted."""
    return Mutant(
        kind, lambda folder: (folder / os.fsdecode(name)).write_bytes(content() if callable(content) else content)
    )


def files(kind: str, contents: dict[str, bytes]) -> Mutant:
    """One that is several."""
    return Mutant(kind, lambda folder: [(folder / name).write_bytes(content) for name, content in contents.items()])


# Valid ones


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


def numpy_file(array: np.ndarray, compressed: bool | None = None) -> bytes:
    """A ``.npy``; with ``compressed`` an ``.npz``."""
    target = io.BytesIO()
    if compressed is None:
        np.save(target, array)
    else:
        (np.savez_compressed if compressed else np.savez)(target, array=array)
    return target.getvalue()


def images(seed: int) -> dict[str, bytes]:
    """One of each kind, by file name."""
    grey = picture(seed)
    small = (grey >> 4).astype(np.uint8)
    jpeg = "1.2.840.10008.1.2.4.50"
    made = {
        f"{syntax.rpartition('.')[2]}.dcm": dicom(grey, syntax) for syntax in SYNTAXES if syntax != jpeg
    }  # fmt: skip
    return made | {
        "50.dcm": dicom(grey, jpeg, BitsAllocated=8, BitsStored=8, HighBit=7),
        "frames.dcm": dicom(np.stack([grey, picture(seed + 1000)])),
        "window.dcm": dicom(grey, WindowCenter=2000, WindowWidth=3000, RescaleSlope=1, RescaleIntercept=-100,
                            PixelPaddingValue=0, PixelSpacing=["0.2", "0.2"]),
        "8.png": raster(small, "PNG"),
        "16.png": raster(grey, "PNG"),
        "x.jpg": raster(small, "JPEG", quality=90),
        "8.tif": raster(small, "TIFF", compression="tiff_lzw"),
        "16.tif": raster(grey, "TIFF", compression="tiff_adobe_deflate"),
        "x.npy": numpy_file(grey),
        "x.npz": numpy_file(grey, compressed=True),
    }  # fmt: skip


def itk(array: np.ndarray, folder: Path, name: str, compressed: bool = False) -> dict[str, bytes]:
    """As SimpleITK writes it, in one file or two."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.0))
    SimpleITK.WriteImage(image, str(folder / name), useCompression=compressed)
    made = {path.name: path.read_bytes() for path in sorted(folder.glob(f"{name.partition('.')[0]}.*"))}
    for path in list(folder.iterdir()):
        path.unlink()
    return made


@cache
def volumes(seed: int, scratch: Path) -> dict[str, dict[str, bytes]]:
    """One of each kind: its name, and its files by their names. ``scratch`` is an empty folder."""
    array = voxels(seed)
    nifti = nibabel.Nifti1Image(array.T, np.diag([-0.7, -0.8, 2.0, 1]))
    nifti.header["descrip"] = NAME.encode()
    plain = nifti.to_bytes()
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, (array + 1000).astype(np.uint16), photometric="minisblack")
    made = {
        "x.nii": {"x.nii": plain},
        "x.nii.gz": {"x.nii.gz": gzip.compress(plain, 1)},
        "x.npy": {"x.npy": numpy_file(array)},
        "x.npz": {"x.npz": numpy_file(array, compressed=True)},
        "x.tif": {"x.tif": tiff.getvalue()},
        "x.mha": itk(array, scratch, "x.mha"),
        "z.mha": itk(array, scratch, "z.mha", compressed=True),
        "x.mhd": itk(array, scratch, "x.mhd"),
        "x.nrrd": itk(array, scratch, "x.nrrd"),
        "z.nrrd": itk(array, scratch, "z.nrrd", compressed=True),
        "frames.dcm": {"frames.dcm": series_files(array, seed, whole=True)[0]},
    }
    return made | {"series": series(seed)}


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


# Damaged ones


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One of the accidents of disks, networks and programs: its kind, and what is left."""
    accidents: list[tuple[str, Callable[[bytes, random.Random], bytes]]] = [
        ("one bit flipped", lambda c, r: _flipped(c, r, 1)),
        ("ten bits flipped", lambda c, r: _flipped(c, r, 10)),
        ("ten bits flipped, header", lambda c, r: _flipped(c, r, 10, 400)),
        ("1 % of bytes replaced", lambda c, r: _replaced(c, r, 1 + len(c) // 100)),
        ("header bytes 0 or 255", lambda c, r: _replaced(c, r, 5, 400, (0, 255))),
        ("cut short", lambda c, r: c[: r.choice((1, 2, 4, 16, 131, 132, 144, 347, 352, len(c) - 1, r.randrange(len(c))))]),
        ("a part missing", lambda c, r: _without(c, r)),
        ("a part twice", lambda c, r: _twice(c, r)),
        ("rubbish behind", lambda c, r: c + r.randbytes(r.choice((1, 100, 5000)))),
        ("rubbish before", lambda c, r: r.randbytes(r.choice((1, 128, 512))) + c),
        ("zeros from the middle", lambda c, r: c[: len(c) // 2] + bytes(len(c) - len(c) // 2)),
    ]  # fmt: skip
    kind, accident = rng.choice(accidents)
    return kind, accident(content, rng)


def _flipped(content: bytes, rng: random.Random, count: int, end: int | None = None) -> bytes:
    spoilt = bytearray(content)
    for _ in range(count):
        spoilt[rng.randrange(min(end or len(spoilt), len(spoilt)))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _replaced(
    content: bytes, rng: random.Random, count: int, end: int | None = None, by: tuple[int, ...] = tuple(range(256))
) -> bytes:
    spoilt = bytearray(content)
    for _ in range(count):
        spoilt[rng.randrange(min(end or len(spoilt), len(spoilt)))] = rng.choice(by)
    return bytes(spoilt)


def _without(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 2000) :]


def _twice(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    end = start + rng.randrange(1, 2000)
    return content[:end] + content[start:]


# Headers that lie


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
        yield file("header lies: npy", "shape.npy", _npy(plain, r"\(.*\)", shape))
    for kind in ("|O", "<f8", "<c16", "<M8[s]", "<U10", "|V4", ">u2", "<u8", "[('a', '<u2')]", "abc", "<i99"):
        yield file("header field of the wrong type", "type.npy", _npy(plain, r"'<[ui]2'", repr(kind)))
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


def _npy(plain: bytes, field: str, by: str) -> bytes:
    header = re.sub(field, lambda _: by, plain[10:128].decode().rstrip(), count=1) + "\n"
    return plain[:6] + b"\2\0" + struct.pack("<I", len(header)) + header.encode() + plain[128:]


def raster_liars(seed: int) -> Iterator[Mutant]:
    """PNG with right checksums and wrong sizes, TIFF with wild numbers."""
    png, tiff = raster(picture(seed), "PNG"), raster(picture(seed), "TIFF")
    for width, height, bits, colour in ((0, 48, 16, 0), (40, 0, 16, 0), (2**31 - 1, 2**31 - 1, 16, 0), (9000, 9000, 16, 0),
                                        (8192, 8192, 16, 0), (40, 48, 3, 0), (40, 48, 16, 7), (40, 48, 8, 3), (40, 48, 16, 6),
                                        (41, 48, 16, 0), (40, 4800, 16, 0), (1, 48, 16, 0)):  # fmt: skip
        yield file("header lies: size", "x.png", _png_header(png, width, height, bits, colour))
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


def _png_header(png: bytes, width: int, height: int, bits: int, colour: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


# Bombs


def bombs(dims: int) -> Iterator[Mutant]:
    """Kilobytes that ask for up to a terabyte."""

    def bomb(name: str, content: Callable[..., bytes], *given: object) -> Mutant:
        return file("decompression bomb", name, partial(content, *given))

    if dims == 2:
        for width, height in ((8192, 8192), (60000, 60000), (40, 48)):
            yield bomb("x.png", _png_bomb, width, height)
        yield bomb("text.png", _png_text_bomb)
        yield bomb("x.jpg", _jpeg_bomb)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
            yield bomb("x.tif", lambda kind: raster(np.zeros((8000, 8000), np.uint8), "TIFF", compression=kind), kind)
        for syntax in ("4.70", "4.80", "4.90", "5"):
            yield bomb("x.dcm", lambda s: dicom(np.zeros((6000, 6000), np.uint16), f"1.2.840.10008.1.2.{s}"), syntax)
    shape = (48, 40) if dims == 2 else (18, 20, 22)
    yield bomb("deflated.dcm", _dicom_bomb)
    for claimed in (shape, (*shape[:-1], 2**20), (2**14,) * len(shape)):
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            yield bomb("x.npz", _npz_bomb, shape, claimed, method)
    yield bomb("overlap.npz", _npz_bomb, shape, shape, zipfile.ZIP_DEFLATED, 100)
    if dims == 3:
        for sides in ((22, 20, 18), (1290, 1290, 1290), (2000, 1000, 200), (32767, 32767, 32767)):
            yield bomb("x.nii.gz", _nifti_bomb, sides)
        for side in ("22 20 18", "1290 1290 1290", "99999 99999 99999"):
            header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {side}\nencoding: gzip\nendian: little\n\n"
            skip = header.replace("encoding", "byte skip: 999999999999\nencoding")
            yield bomb("x.nrrd", lambda header: header.encode() + _gzip_bomb(), header)
            yield bomb("skip.nrrd", lambda header: header.encode() + _gzip_bomb(), skip)
            header = (f"ObjectType = Image\nNDims = 3\nDimSize = {side}\nElementType = MET_SHORT\n"
                      "CompressedData = True\nCompressedDataSize = 99\nElementDataFile = LOCAL\n")  # fmt: skip
            yield bomb("x.mha", lambda header: header.encode() + zlib.compress(ZEROS, 9), header)
        yield bomb("line.mha", lambda: b"ObjectType = " + ZEROS)
        yield bomb("line.nrrd", lambda: b"NRRD0004\n" + b"#\n" * 2**20)
        yield bomb("pages.tif", _tiff_bomb)


ZEROS = bytes(2**26)


@cache
def _gzip_bomb() -> bytes:
    """Half a gigabyte in half a megabyte, in several members."""
    return gzip.compress(ZEROS, 9) * 8


def _png_bomb(width: int, height: int) -> bytes:
    png, rows = raster(picture(0), "PNG"), zlib.compress(bytes((1 + 8192 * 2) * 8192), 9)
    data = struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    return _png_header(png[:33], width, height, 16, 0) + data + png[-12:]


def _png_text_bomb() -> bytes:
    png, text = raster(picture(0), "PNG"), b"zTXtComment\0\0" + zlib.compress(ZEROS, 9)
    packed = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return png[:33] + packed * 20 + png[33:]


def _jpeg_bomb() -> bytes:
    jpeg = raster((picture(0) >> 4).astype(np.uint8), "JPEG")
    start = jpeg.index(b"\xff\xc0")
    return jpeg[: start + 5] + struct.pack(">HH", 65500, 65500) + jpeg[start + 9 :]


def _tiff_bomb() -> bytes:
    page = Image.fromarray(np.zeros((20, 22), np.uint8))
    return raster(np.zeros((20, 22), np.uint8), "TIFF", save_all=True, append_images=[page] * 1000)


def _dicom_bomb() -> bytes:
    deflated, ds = io.BytesIO(), pydicom.dcmread(io.BytesIO(dicom(picture(0), "1.2.840.10008.1.2.1.99")))
    ds.PixelData = ZEROS * 8
    ds.save_as(deflated)
    return deflated.getvalue()


def _npz_bomb(shape: tuple[int, ...], claimed: tuple[int, ...], method: int, entries: int = 1) -> bytes:
    """With several ``entries`` the archive's directory names one file as many overlapping arrays."""
    packed, header = io.BytesIO(), _npy(numpy_file(np.zeros(shape, np.int16))[:128], r"\(.*\)", str(claimed))
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a.npy", header + ZEROS)
        archive.filelist *= entries
    return packed.getvalue()


def _nifti_bomb(sides: tuple[int, ...]) -> bytes:
    header = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()[:352])
    struct.pack_into("<3h", header, 42, *sides)
    return gzip.compress(bytes(header), 9) + _gzip_bomb()


# Places


def places(valid: dict[str, bytes], outside: Path) -> Iterator[Mutant]:
    """Odd names, links, and what is no file; ``valid`` is a good one, of which copies get odd names."""
    ((name, content),) = list(valid.items())[:1]
    ending = name.partition(".")[2]
    for odd in ("n" * 240, "\x1b[31mred", "-rf", "=cmd|' C calc'!A0", "a\nb", "%s%n", "[bold]x", "<script>", " ", "ü é",
                "a,b", '"', "'; DROP TABLE item; --", "nul", "\t", "x" * 100 + "\u202e"):  # fmt: skip
        yield file("good, with an odd name", f"{odd}.{ending}", content)
    yield file("good, with an odd name", b"\xff\xfe\x80." + ending.encode(), content)
    for empty in ("x.png", "x.dcm", "x.nii.gz", "x.mhd", "x.npz", "x"):
        yield file("no bytes", empty, b"")
    for links in (
        "loop",
        "self",
        "dangling",
        "zero",
        "random",
        "kernel",
        "outside",
        "folder",
        "root of itself",
        "chain",
    ):
        yield Mutant("symbolic link", lambda folder, kind=links: _link(folder, kind, ending, outside))
    yield Mutant("no regular file", lambda folder: os.mkfifo(folder / f"fifo.{ending}"))
    yield Mutant("no regular file", lambda folder: _socket(folder / f"socket.{ending}"))
    yield Mutant("no regular file", lambda folder: _folders(folder / f"folder.{ending}"))
    yield Mutant("no regular file", lambda folder: _folders(folder, 60))
    yield Mutant("unreadable", lambda folder: ((folder / f"x.{ending}").write_bytes(content),
                                               (folder / f"x.{ending}").chmod(0)))  # fmt: skip


def _link(folder: Path, kind: str, ending: str, outside: Path) -> None:
    link = folder / f"{kind}.{ending}"
    targets = {"zero": "/dev/zero", "random": "/dev/urandom", "kernel": "/proc/kmsg", "dangling": "nowhere",
               "self": link.name, "outside": outside, "folder": ".", "root of itself": ".."}  # fmt: skip
    if kind == "loop":
        link.symlink_to(f"other.{ending}")
        (folder / f"other.{ending}").symlink_to(link.name)
    elif kind == "chain":
        for number in range(50):  # longer than the kernel follows
            (folder / f"{number}.{ending}").symlink_to(f"{number + 1}.{ending}")
    else:
        link.symlink_to(targets[kind])


def _socket(path: Path) -> None:
    import socket

    here = Path.cwd()
    os.chdir(path.parent)  # sockets have short names
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _folders(path: Path, depth: int = 1) -> None:
    for _ in range(depth):
        path /= "d" * 30
    path.mkdir(parents=True)


def companions(header: bytes, values: bytes, key: bytes, outside: Path) -> Iterator[Mutant]:
    """Detached headers (MetaImage, NRRD) that name another file of values than their own."""
    name = "x.mhd" if key.startswith(b"Element") else "x.nhdr"
    for target in ("../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "http://127.0.0.1:9/x", "LIST", "x%03d.raw 1 9 1",
                   "", ".", "..", name, "n" * 300, "fifo.raw", "link.raw", "zero.raw", "secret\0.raw", "..\\x.raw", "~/x.raw",
                   str(outside)):  # fmt: skip
        spoilt = re.sub(key + rb"[^\n]*", lambda _, t=target: key + t.encode(), header)

        def place(folder: Path, spoilt: bytes = spoilt) -> None:
            (folder / name).write_bytes(spoilt)
            os.mkfifo(folder / "fifo.raw")
            (folder / "link.raw").symlink_to(outside)
            (folder / "zero.raw").symlink_to("/dev/zero")

        yield Mutant("header names another file", place)
    for size in (0, 1, len(values) - 1):
        yield files("data of another length", {name: header, "x.raw": values[:size]})
    yield files("data of another length", {name: header, "x.raw": values * 2})
