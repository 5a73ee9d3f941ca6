"""Pixels that may show a name: what headers say, and lettering drawn into real and made-up images."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from archive import ingest
from needs import real_data
from PIL import Image, ImageDraw, ImageFont
from unpacked import unpack

from dira_scale.archive.imaging.burned_in import STROKES, count_strokes
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError

TEXTS = ("SMITH^JOHN", "DOE, JANE  12/03/1951", "ID 00123456 M 67Y", "Garcia Lopez, Maria", "1951-03-12 14:22:07")
FONTS = ("hershey", "dejavu", "pillow")
CLOCKS = {  # real images of the folder in which a time of day is burned in, found by this very check and looked at
    "person330_virus_683", "person1324_virus_2284", "person1365_virus_2348", "person1591_virus_2765",
    "person1526_bacteria_3986", "person339_virus_695", "person1311_virus_2259", "person1214_virus_2059",
}  # fmt: skip


def lettered(pixels: np.ndarray, text: str, font: str, height: int, value: int, corner: str) -> np.ndarray:
    """``pixels`` with ``text`` of capitals ``height`` pixels high, cut to what fits, in a corner (tl, tr, bl, br)."""
    while (size := _extent(text, font, height))[2] - size[0] > pixels.shape[1] - 8:
        text = text[:-1]
    left, top, right, bottom = size
    x = 4 if corner[1] == "l" else pixels.shape[1] - 4 - (right - left)
    y = 4 if corner[0] == "t" else pixels.shape[0] - 4 - (bottom - top)
    if font == "hershey":
        thick = max(1, round(height / 12))
        origin = (x - left, y - top)
        return cv2.putText(
            pixels.copy(), text, origin, cv2.FONT_HERSHEY_SIMPLEX, height / 22, value, thick, cv2.LINE_AA
        )
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).text((x - left, y - top), text, fill=value, font=_font(font, height))
    return np.array(picture)


def _extent(text: str, font: str, height: int) -> tuple[int, int, int, int]:
    if font == "hershey":
        (w, h), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, height / 22, max(1, round(height / 12)))
        return 0, -h, w, base
    box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=_font(font, height))
    return tuple(map(int, box))


def _font(name: str, height: int) -> ImageFont.FreeTypeFont:
    if name == "dejavu":
        return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", round(height / 0.73))
    return ImageFont.load_default(round(height / 0.7))


def chest(seed: int, side: int = 512) -> np.ndarray:
    """Something like a radiograph: a body with ribs and vessels on a dark ground, collimated, with noise."""
    return _chest(seed, side).copy()


@cache
def _chest(seed: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side - 0.5
    body = 150 * np.exp(-((x / 0.4) ** 4)) + 25 * np.sin(60 * y + 40 * x**2) * np.exp(-((x / 0.3) ** 2)) + 20
    for _ in range(30):  # vessels
        a, b, w = rng.uniform(-0.4, 0.4, 3)
        body += 15 * np.exp(-(((y - a) * np.cos(8 * w) - (x - b) * np.sin(8 * w)) ** 2) / 2e-5)
    body[:, : side // 20] = body[-side // 30 :] = 4  # collimator blades
    return np.clip(cv2.GaussianBlur(body, (0, 0), 1) + rng.normal(0, 3, body.shape), 0, 250).astype(np.uint8)


@pytest.mark.parametrize("tags, reason", [
    ({"BurnedInAnnotation": "YES"}, "text is burned in"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "BurnedInAnnotation": "NO"}, "secondary capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "secondary capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "ultrasound"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1"}, "ultrasound"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen shot"),
])  # fmt: skip
def test_what_the_header_warns_of(tmp_path: Path, tags: dict, reason: str) -> None:
    path = ingest.dicom(tmp_path / "x.dcm", np.arange(1600, dtype=np.uint16).reshape(40, 40), **tags)
    for policy in ("refuse", "tagged"):
        with pytest.raises(RejectedError, match=reason):
            read_image(path, 8, policy)
    assert read_image(path, 8, "keep").pixels.shape == (40, 40)


@pytest.mark.parametrize("bits", [8, 16])
def test_lettering_is_refused_in_any_format_and_only_by_refuse(tmp_path: Path, bits: int) -> None:
    plain = chest(0)
    named = lettered(plain, TEXTS[0], "pillow", 14, 255, "tl")
    for name, pixels in (("plain", plain), ("named", named)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        ingest.dicom(tmp_path / f"{name}.dcm", pixels.astype(np.uint16) * 16)
    for kind in ("png", "dcm"):
        read_image(tmp_path / f"plain.{kind}", bits, "refuse")
        read_image(tmp_path / f"named.{kind}", bits, "tagged")
        read_image(tmp_path / f"named.{kind}", bits, "keep")
        with pytest.raises(RejectedError, match="the pixels seem to contain lettering"):
            read_image(tmp_path / f"named.{kind}", bits, "refuse")


@pytest.mark.parametrize("seed", range(2))
def test_a_side_marker_and_collimation_are_no_lettering(seed: int) -> None:
    pixels = chest(seed, 700)
    for height in (20, 40):
        for marker, corner in (("L", "tr"), ("R", "tl"), ("AP", "tl"), ("L ▲", "br")):
            assert count_strokes(lettered(pixels, marker, "dejavu", height, 255, corner)) < STROKES


VIEWS = ("PA ERECT", "AP SUPINE", "PORTABLE", "AP PORTABLE", "UPRIGHT", "SEMI ERECT", "RIGHT", "MOBILE", "L DECUB")
OTHERS = ("CREST, PAUL", "ELECT 1951", "WRIGHT", "LUFTHANSA", "KNIGHT, EVE", "PORTMAN", "ERNEST", "AP 14:22:07")
ALIKE = ("RIGHI", "NOBILE", "PROHL", "FROHE", "RICHT")  # names of which each letter is like a word's


@pytest.mark.parametrize("font", FONTS)  # of which DejaVu is no model of a letter
def test_words_for_views_are_no_lettering_and_names_like_them_are(font: str) -> None:
    plain = chest(0, 700)
    plain[:60] = plain[:60] // 8
    for height in (16, 24):
        drawn = [count_strokes(lettered(plain, text, font, height, 255, "tl")) < STROKES for text in VIEWS]
        assert np.mean(drawn) >= 0.75, (font, height, dict(zip(VIEWS, drawn, strict=True)))
        for text in (*OTHERS, *ALIKE):
            assert count_strokes(lettered(plain, text, font, height, 255, "tl")) >= STROKES, (font, height, text)


def words_on(images: list[np.ndarray], height: int) -> tuple[int, int]:
    """How many of the images with a word for a view, in a corner and in each font, are refused; and of how many."""
    drawn = [
        count_strokes(lettered(image, text, font, height, 255, ("tl", "tr", "bl", "br")[number % 4])) >= STROKES
        for number, image in enumerate(images) for text in VIEWS for font in FONTS
    ]  # fmt: skip
    return sum(drawn), len(drawn)


@pytest.mark.data
@pytest.mark.parametrize(
    "count", [pytest.param(4, marks=pytest.mark.system), pytest.param(12, marks=pytest.mark.torture)]
)
def test_how_many_words_for_views_on_real_images_are_refused(count: int) -> None:
    """As docs/evidence/proof.md says: of larger letters few, of letters that touch more."""
    sets = dict(real_sets(count))
    for name, bounds in {
        "shenzhen_256": {8: 0.9, 12: 0.8, 16: 0.5},
        "chestxray14_nih12_1024": {16: 0.4, 24: 0.4, 32: 0.6, 48: 0.6},
    }.items():
        for height, bound in bounds.items():
            refused, of = words_on([pixels for _, pixels in sets[name]][:count], height)
            print(f"{name}, {height} px: {refused} of {of}")
            assert refused <= bound * of, (name, height)


HEIGHTS = (10, 16, 24, 40)
# Every height and every font; the other pairs with the full counts.
SHOWN = [(10, "hershey"), (16, "dejavu"), (24, "pillow"), (40, "hershey")]
REST = [pytest.param(h, f, marks=pytest.mark.torture) for h in HEIGHTS for f in FONTS if (h, f) not in SHOWN]


@pytest.mark.parametrize(("height", "font"), [*SHOWN, *REST])
def test_names_and_dates_on_a_dark_ground_are_found(font: str, height: int) -> None:
    """Letters of every size, in white and grey, and as black on white (MONOCHROME1 turned round)."""
    found = []
    for seed, text in enumerate(TEXTS):
        pixels = chest(seed, 700)
        pixels[:60] = pixels[:60] // 8
        for value in (255, 180):
            drawn = lettered(pixels, text, font, height, value, "tl")
            found += [count_strokes(drawn) >= STROKES, count_strokes(255 - drawn) >= STROKES]
    assert np.mean(found) >= 0.9


def real_sets(count: int | None) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Real images by set, ``count`` of each at most (spread evenly), as they would be stored in 8 bits."""
    patterns = {
        "pediatric_pneumonia_224": "images/**/*.jp*g", "shenzhen_256": "images/*.png",
        "chestxray14_nih12_1024": "**/*.png", "chestxray14_nih1000_64": "images/*.png", "dicom_lungmask_ct": "*.dcm",
    }  # fmt: skip
    for folder, pattern in patterns.items():
        paths = sorted(real_data(folder).glob(pattern))
        paths = paths[:: max(1, len(paths) // count)] if count else paths
        yield folder, [(path.stem, read_image(path, 8, "keep").pixels) for path in paths]


def head_slices(folder: Path) -> list[tuple[str, np.ndarray]]:
    unpack(real_data("dicom_ct_series_ge") / "GE_28slices.tar.xz", folder)
    return [(path.stem, read_image(path, 8, "keep").pixels) for path in sorted(folder.rglob("*.dcm"))]


@pytest.mark.data
@pytest.mark.parametrize("count", [5, pytest.param(None, marks=pytest.mark.torture)])
def test_real_images_are_not_taken_for_lettering(tmp_path: Path, count: int | None) -> None:
    """None but those in which a time of day is burned in."""
    heads = head_slices(tmp_path)[:: 28 // count if count else 1]
    for name, images in [*real_sets(count), ("dicom_ct_series_ge", heads)]:
        flagged = {image for image, pixels in images if count_strokes(pixels) >= STROKES}
        print(f"{name}: {len(images)} images, flagged {len(flagged)}")
        assert flagged <= CLOCKS, name
        assert count or name != "pediatric_pneumonia_224" or len(flagged) >= 7


@pytest.mark.data
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(2, marks=pytest.mark.system),
        pytest.param(20, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
def test_how_many_names_on_real_images_are_found(tmp_path: Path, count: int) -> None:
    """As docs/evidence/proof.md says (here 20 images a set): white names mostly found, in CT all."""
    sets = dict(real_sets(count)) | {"dicom_ct_series_ge": head_slices(tmp_path)[:: 28 // count]}
    least = {
        "pediatric_pneumonia_224": 0.8,
        "shenzhen_256": 0.5,
        "chestxray14_nih12_1024": 0.7,
        "dicom_ct_series_ge": 0.9,
    }
    for name, bound in least.items():
        heights = (8, 10, 12, 16) if max(sets[name][0][1].shape) < 300 else (8, 12, 16, 24, 32, 48)
        heights = heights if count > 2 else heights[1:3]
        for value in (255, 200) if count > 2 else (255,):  # grey letters have no bound
            found = [
                [count_strokes(lettered(pixels, TEXTS[(n + k) % 5], font, height, value, corner)) >= STROKES
                 for n, (_, pixels) in enumerate(sets[name])
                 for k, corner in enumerate(("tl", "tr", "bl", "br")) for font in FONTS]
                for height in heights
            ]  # fmt: skip
            print(name, value, dict(zip(heights, np.mean(found, axis=1).round(2), strict=True)), len(found[0]))
            assert value == 200 or np.mean(found) >= bound, name
