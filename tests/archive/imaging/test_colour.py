"""Images in colour: as each format has them; grey where colour is stored, and colour where grey is, are refused."""

from pathlib import Path

import numpy as np
import pytest
from archive import ingest
from PIL import Image as Pillow
from pydicom.pixels import convert_color_space

from dira_scale.archive.imaging.colour import ColourError
from dira_scale.archive.imaging.grey import shrink
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError

HEIGHT, WIDTH = 48, 40


def colours(seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """Smooth, [H, W, 3]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / (5 + channel) + seed) * np.cos(y / 7 + channel) for channel in range(3)]
    return ((np.stack(waves, -1) + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Pillow.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "rgba.png", "palette.png", "turned.png", "x.npy"])
def test_three_channels_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    pixels, path = colours(), tmp_path / name
    if name == "x.npy":
        np.save(path, pixels)
        expected = pixels
    else:
        exif = Pillow.Exif()
        exif[0x0112] = 6 if name == "turned.png" else 1
        saved(path, pixels, {"rgba.png": "RGBA", "palette.png": "P"}.get(name), exif=exif)
        expected = np.asarray(Pillow.open(path).convert("RGB"))
        expected = np.rot90(expected, -1) if name == "turned.png" else expected
    image = read_image(path, 8, colour="rgb")
    assert (image.pixels.dtype, image.low, image.high) == (np.uint8, 0, 255) and not image.flat
    np.testing.assert_array_equal(image.pixels, expected)


def test_sixteen_bits_have_one_range_for_all_channels(tmp_path: Path) -> None:
    pixels = 500 + colours(dtype=np.uint16) // 20
    np.save(tmp_path / "x.npy", pixels)
    image = read_image(tmp_path / "x.npy", 16, colour="rgb")
    np.testing.assert_array_equal(image.pixels, pixels - pixels.min())
    assert (image.low, image.high) == (0, np.ptp(pixels))
    small = shrink(image, 24)
    assert small.pixels.shape == (24, 20, 3) and small.pixels.dtype == np.uint16
    alone = [np.asarray(Pillow.fromarray(c.astype(np.float32)).resize((20, 24), Pillow.Resampling.BILINEAR))
             for c in np.moveaxis(image.pixels, -1, 0)]  # fmt: skip
    np.testing.assert_array_equal(small.pixels, np.rint(np.stack(alone, -1)))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
def test_dicom_in_colour(tmp_path: Path, photometric: str) -> None:
    tags: dict[str, object] = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    pixels, grey, tags = colours(), tags, tags | {"PhotometricInterpretation": photometric}
    if photometric == "PALETTE COLOR":
        stored, table = pixels[..., 0], np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint8)
        for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
            tags |= {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 8]}
            tags |= {f"{name}PaletteColorLookupTableData": values.tobytes()}
        expected = np.moveaxis(table[:, stored], 0, -1)
    else:
        stored = pixels if photometric == "RGB" else convert_color_space(pixels, "RGB", "YBR_FULL")
        tags |= {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
        expected = pixels
    path = ingest.dicom(tmp_path / "x.dcm", stored, **tags)
    image = read_image(path, 8, colour="rgb")
    assert np.abs(image.pixels.astype(int) - expected).max() <= (2 if photometric == "YBR_FULL" else 0)
    with pytest.raises(ColourError, match="in colour"):
        read_image(path, 8, colour="grey")
    with pytest.raises(ColourError, match="grey"):
        read_image(ingest.dicom(tmp_path / "grey.dcm", pixels[..., 0], **grey), 8, colour="rgb")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.npy"])
def test_colour_where_grey_is_stored_and_the_reverse(tmp_path: Path, name: str) -> None:
    """Three equal channels are grey, in both."""
    grey = ingest.picture(1)
    files = {"colour": colours(), "grey": grey, "equal": np.stack([grey] * 3, -1)}
    for kind, pixels in files.items():
        path = tmp_path / f"{kind}{name}"
        np.save(path, pixels) if name == "x.npy" else saved(path, pixels)
        assert read_image(path, 8).pixels.ndim == 2  # luminance
        for colour in ("grey", "rgb"):
            if (kind == "colour") == (colour == "rgb"):
                pixels = read_image(path, 8, colour=colour).pixels
                luminance = read_image(path, 8, colour="luminance").pixels
                assert pixels.ndim == 3 or np.array_equal(pixels, luminance)
            else:
                with pytest.raises(ColourError, match="in colour" if colour == "grey" else "^grey"):
                    read_image(path, 8, colour=colour)


def test_what_is_in_between_is_taken_by_both(tmp_path: Path) -> None:
    """A coloured marker on a film, a film with a tint, a slide's background."""
    film = np.stack([ingest.picture(2)] * 3, -1)
    film[:4, :4] = (250, 20, 20)
    tinted = np.stack([ingest.picture(2) // 2 + shift for shift in (40, 44, 52)], -1)
    for n, pixels in enumerate((film, tinted, np.random.default_rng(0).integers(236, 245, film.shape, np.uint8))):
        path = saved(tmp_path / f"{n}.png", pixels)
        assert read_image(path, 8, colour="grey").pixels.ndim == 2
        np.testing.assert_array_equal(read_image(path, 8, colour="rgb").pixels, pixels)


def test_a_grey_jpeg_of_rgb_components_is_read(tmp_path: Path) -> None:
    """libjpeg converts them to grey, not to YCbCr; its luminance is Pillow's."""
    grey = colours()[..., 0]
    path = saved(tmp_path / "x.jpg", np.stack([grey] * 3, -1), keep_rgb=True)
    expected = np.asarray(Pillow.open(path).convert("L"))
    np.testing.assert_array_equal(read_image(path, 8, colour="grey").pixels, expected)


def test_a_tiff_of_lightness_and_two_colours_becomes_grey(tmp_path: Path) -> None:
    picture = Pillow.merge("LAB", [Pillow.fromarray(channel) for channel in np.moveaxis(colours(), -1, 0).copy()])
    picture.save(path := tmp_path / "x.tif")
    expected = np.asarray(picture.convert("RGB").convert("L"))
    np.testing.assert_array_equal(read_image(path, 8, colour="luminance").pixels, expected)


def test_one_colour_everywhere_is_flat(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="all pixels are equal"):
        read_image(saved(tmp_path / "x.png", np.full((HEIGHT, WIDTH, 3), (200, 10, 90), np.uint8)), 8, colour="rgb")
