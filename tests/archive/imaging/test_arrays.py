"""NumPy files and TIFF as images in 2D: read as NumPy and tifffile read them, and no more than a file holds."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from archive import ingest

from dira_scale.archive.imaging.arrays import open_array
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "<i2", ">i4", "<i8", "f2", "<f4", ">f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_type_and_order(tmp_path: Path, kind: str, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 100, (5, 7, 3)), kind, order=order)
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", image=array)
    for name in ("x.npy", "x.npz"):
        with (tmp_path / name).open("rb") as file:
            values = open_array(file).values()
        np.testing.assert_array_equal(values, array)
        assert values.dtype == array.dtype.newbyteorder("=")


def npy(shape: str, content: bytes) -> bytes:
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    "content, reason",
    [
        (npy("40, 30", b"\0" * 100), "ends before"),
        (npy("40", bytes(80)), "not an image array"),
        (b"\x93NUMPY\x09\x00", "not a NumPy"),
    ],
)
def test_broken_arrays_have_their_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(RejectedError, match=reason):
        read_image(tmp_path / "x.npy", 8)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_tiff_and_npy_give_the_same_image(tmp_path: Path, kind: type) -> None:
    pixels = ingest.picture(1).astype(kind) * (1 if kind == np.uint8 else 16)
    np.save(tmp_path / "x.npy", pixels)
    tifffile.imwrite(tmp_path / "x.tif", pixels, compression="zlib")
    tifffile.imwrite(tmp_path / "white.tif", pixels.max() - pixels if kind != np.uint8 else 255 - pixels,
                     photometric="miniswhite")  # fmt: skip
    images = [read_image(tmp_path / name, 16) for name in ("x.npy", "x.tif", "white.tif")]
    low, high = (0, 255) if kind == np.uint8 else (pixels.min(), pixels.max())
    for image in images[: 3 if kind != np.float32 else 2]:
        shown = (image.pixels - image.low) / (image.high - image.low)
        np.testing.assert_allclose(shown, (pixels.astype(float) - low) / (float(high) - low), atol=1e-4)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf):
        np.save(tmp_path / "x.npy", np.array([[0, 1], [bad, 3.0]]))
        with pytest.raises(RejectedError, match="NaN or infinite"):
            read_image(tmp_path / "x.npy", 8)


def test_several_pages_are_no_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.arange(24, dtype=np.uint8).reshape(2, 3, 4), photometric="minisblack")
    with pytest.raises(RejectedError, match="several pages"):
        read_image(tmp_path / "x.tif", 8)


def test_a_stream_is_not_read_beyond_its_values() -> None:
    file = io.BytesIO(npy("2, 2", b"\1\0\2\0\3\0\4\0 and more"))
    np.testing.assert_array_equal(open_array(file).values(), [[1, 2], [3, 4]])
