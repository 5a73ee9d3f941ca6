"""Decoding against plain formulas: the DICOM window as PS3.3 prints it, luminance as BT.601 prints it."""

import io
from pathlib import Path

import numpy as np
import pytest
from archive import ingest
from PIL import Image as Pillow

from dira_scale.archive.imaging.grey import GreyImage, shrink
from dira_scale.archive.imaging.read import read_image, read_mask
from dira_scale.archive.imaging.rejection import RejectedError


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Pillow.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_stored_in_colour_stays_exactly_grey(tmp_path: Path, mode: str) -> None:
    pixels = ingest.picture(1)
    image = read_image(save(tmp_path / "x.png", pixels, mode), bits=8)
    assert image.pixels.dtype == np.uint8 and (image.low, image.high) == (0, 255)
    np.testing.assert_array_equal(image.pixels, pixels)


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (40, 33, 3), np.uint8)
    save(tmp_path / "x.png", colour)
    np.save(tmp_path / "x.npy", colour)
    for name in ("x.png", "x.npy"):
        grey = read_image(tmp_path / name, bits=8).pixels
        assert np.abs(grey - colour @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


def test_colour_jpeg_gives_its_luma(tmp_path: Path) -> None:
    grey = ingest.picture(2)
    path = save(tmp_path / "x.jpg", np.stack([grey] * 3, -1), quality=95)
    expected = np.asarray(Pillow.open(path).convert("L"), int)
    assert np.abs(read_image(path, 8).pixels.astype(int) - expected).max() <= 1


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = ingest.picture(3)
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    image = read_image(save(tmp_path / "x.png", pixels, exif=exif), 8)
    np.testing.assert_array_equal(image.pixels, np.rot90(pixels, -1))


def test_sixteen_bits_keep_every_step(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(700, 4096, (40, 30)).astype(np.uint16)
    image = read_image(save(tmp_path / "x.png", pixels), 16)
    low, high = int(pixels.min()), int(pixels.max())
    assert image.pixels.dtype == np.uint16 and (image.low, image.high) == (0, high - low)
    np.testing.assert_array_equal(image.pixels, pixels - low)
    eight = read_image(tmp_path / "x.png", 8)
    np.testing.assert_array_equal(eight.pixels, np.rint((pixels - low) * 255.0 / (high - low)))


def windowed(x: float, c: float, w: float, function: str) -> float:
    """DICOM PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and 3.2 with output range 0 to 1, written down as printed there."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - c) / w))
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        return 1.0 if x > c - 0.5 + (w - 1) / 2 else (x - (c - 0.5)) / (w - 1) + 0.5
    if x <= c - w / 2:
        return 0.0
    return 1.0 if x > c + w / 2 else (x - c) / w + 0.5


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_window(tmp_path: Path, bits: int, function: str, photometric: str) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (40, 36)).astype(np.uint16)
    path = ingest.dicom(
        tmp_path / "x.dcm", stored, PhotometricInterpretation=photometric, RescaleSlope="2", RescaleIntercept="-1000",
        WindowCenter=["3000", "1"], WindowWidth=["4000", "2"], VOILUTFunction=function, PixelSpacing=["0.2", "0.3"],
    )  # fmt: skip
    image = read_image(path, bits)
    expected = np.array([[windowed(2.0 * v - 1000, 3000, 4000, function) for v in row] for row in stored])
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    got = (image.pixels - image.low) / (image.high - image.low)
    assert image.low == 0 and image.high == (255 if bits == 8 else 2000)  # 16 bits: the window's width in source steps
    assert np.abs(got - expected).max() <= 0.51 / image.high
    assert image.spacing == (0.2, 0.3)


def test_what_is_no_usable_image_is_refused_with_a_reason(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", ingest.picture(0)).read_bytes()
    dicom = ingest.dicom(tmp_path / "good.dcm", np.arange(2000, dtype=np.uint16).reshape(40, 50)).read_bytes()
    buffer = io.BytesIO()
    Pillow.fromarray(ingest.picture(0, 200, 200)).save(buffer, "JPEG")
    contents = {
        "the file is empty": b"",
        "not a PNG, JPEG, TIFF, NumPy or DICOM file": b"Dear colleague, please find attached",
        "damaged or cut short (OSError in PNG decoding)": good[: len(good) // 2],
        "damaged or cut short (OSError in JPEG decoding)": buffer.getvalue()[:-1000],
        "damaged or cut short (ValueError in DICOM decoding)": dicom[:-1000],
        "DICOM without an image, or cut short before it": dicom[:400],
    }
    for reason, content in contents.items():
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(RejectedError) as caught:
            read_image(tmp_path / "bad", 8)
        assert str(caught.value).startswith(reason), (reason, caught.value)
    with pytest.raises(RejectedError, match="cannot be read"):
        read_image(tmp_path / "absent.png", 8)
    with pytest.raises(RejectedError, match="all pixels are equal"):
        read_image(save(tmp_path / "flat.png", np.full((40, 40), 7, np.uint8)), 8)


def test_shrinking_is_antialiased_and_follows_spacing() -> None:
    stripes = np.tile(np.array([0, 60000], np.uint16), (512, 256))  # alternate columns: aliasing would keep them
    image = shrink(GreyImage(stripes, 0, 60000, (0.1, 0.1)), 128)
    assert image.pixels.shape == (128, 128) and image.pixels.dtype == np.uint16
    assert np.abs(image.pixels[:, 2:-2].astype(int) - 30000).max() < 600
    assert image.spacing == pytest.approx((0.4, 0.4))
    assert shrink(image, 128) is image and shrink(image, None) is image and shrink(image, 4000) is image
    assert shrink(GreyImage(stripes[:100], 0, 60000, None), 256).pixels.shape == (50, 256)


def test_masks_keep_indices_and_grey_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (40, 33), np.uint8)
    palette = Pillow.fromarray(values, "P")
    palette.putpalette([200, 10, 10, 0, 0, 0, 10, 200, 10, 10, 10, 200, 90, 90, 90])  # no order of brightness
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png"), values)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "grey.png", values)), values)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "bits.png", values > 2)), values > 2)


@pytest.mark.parametrize(
    "name, dtype, mode", [("x.jpg", "uint8", "L"), ("x.png", "uint16", None), ("y.png", "uint8", "RGB")]
)
def test_masks_whose_values_would_change_are_refused(tmp_path: Path, name: str, dtype: str, mode: str | None) -> None:
    path = save(tmp_path / name, np.eye(40, dtype=dtype) * 3, mode)
    with pytest.raises(RejectedError, match="a mask must be a PNG"):
        read_mask(path)
