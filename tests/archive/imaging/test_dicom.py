"""What DICOM files say beside their pixels: windows, padding, text in the picture, codings, missing preambles."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from archive import ingest
from pydicom.encaps import encapsulate

from dira_scale.archive.imaging.dicom.header import is_dicom, read_header
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError

NOISE = np.random.default_rng(0).integers(100, 4000, (40, 36)).astype(np.uint16)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": "2000", "WindowWidth": "0"},
        {"WindowCenter": "2000", "WindowWidth": "1"},
        {"WindowCenter": "2000", "WindowWidth": "-5", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "2000", "WindowWidth": "300", "VOILUTFunction": "CUBIC"},
        {"WindowCenter": "-30000", "WindowWidth": "400"},  # all would be white
        {"WindowCenter": "30000", "WindowWidth": "400"},  # all would be black
        {"WindowCenter": "30000", "WindowWidth": "4", "VOILUTFunction": "SIGMOID"},
    ],
)
def test_a_window_that_shows_nothing_gives_way_to_the_own_range(tmp_path: Path, window: dict[str, str]) -> None:
    image = read_image(ingest.dicom(tmp_path / "x.dcm", NOISE, **window), 16)
    np.testing.assert_array_equal(image.pixels, NOISE - NOISE.min())


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": "900", "WindowWidth": "6000", "VOILUTFunction": "LINEAR_EXACT"}]
)
def test_padding_is_black_and_no_part_of_the_range(tmp_path: Path, photometric: str, window: dict[str, str]) -> None:
    stored = (NOISE // 2).astype(np.int16)  # 12 bits with a sign
    stored[:5], stored[5:8] = -2000, -1990
    shown, padded = stored * 2.0 - 100, np.s_[:8]
    low, high = (-2100, 3900) if window else (shown[8:].min(), shown[8:].max())
    expected = np.clip((shown - low) / (high - low), 0, 1)
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    expected[padded] = 0
    path = ingest.dicom(
        tmp_path / "x.dcm", stored, PhotometricInterpretation=photometric, RescaleSlope="2", RescaleIntercept="-100",
        PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1985, **window,
    )  # fmt: skip
    assert np.abs(read_image(path, 8).pixels / 255 - expected).max() <= 0.51 / 255


@pytest.mark.parametrize("limit", [{}, {"PixelPaddingRangeLimit": -1990}])
def test_padding_of_signed_pixels_may_be_written_without_a_sign(tmp_path: Path, limit: dict[str, int]) -> None:
    stored = (NOISE // 2).astype(np.int16)
    stored[:5] = -2000
    expected = np.where(stored == -2000, 0, stored - stored[5:].min())
    path = ingest.dicom(tmp_path / "x.dcm", stored, PixelPaddingValue=-2000, **limit)
    header = pydicom.dcmread(path)
    for name in ("PixelPaddingValue", *limit):
        header[name].VR, header[name].value = "US", header[name].value + 2**16
    header.save_as(path)
    np.testing.assert_array_equal(read_image(path, 16).pixels, expected)


@pytest.mark.parametrize(
    "rescale",
    [
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": "2", "RescaleIntercept": ""},
        {"RescaleSlope": "", "RescaleIntercept": "-100"},
        {"RescaleSlope": "2"},
        {"RescaleIntercept": "-100"},
    ],
)
def test_half_a_rescaling_is_none(tmp_path: Path, rescale: dict[str, str]) -> None:
    image = read_image(ingest.dicom(tmp_path / "x.dcm", NOISE, **rescale), 16)
    assert image.high == int(NOISE.max()) - int(NOISE.min())
    np.testing.assert_array_equal(image.pixels, NOISE - NOISE.min())


def test_a_table_of_modality_values_stands_before_a_slope(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
    table["LUTDescriptor"].VR = "US"
    table.add_new("LUTData", "US", [3 * n for n in range(4096)])
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "0"}
    image = read_image(ingest.dicom(tmp_path / "x.dcm", NOISE, ModalityLUTSequence=[table], **rescale), 16)
    np.testing.assert_array_equal(image.pixels, 3 * (NOISE - NOISE.min()))


def test_an_image_of_padding_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedError, match="all pixels are equal"):
        read_image(ingest.dicom(tmp_path / "x.dcm", np.zeros((40, 40), np.uint16), PixelPaddingValue=0), 8)


@pytest.mark.parametrize(
    "coding, reported", [("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"), ("1.2.7741903.55018822", "unknown")]
)
def test_the_reason_names_a_coding_only_from_the_standard(tmp_path: Path, coding: str, reported: str) -> None:
    path = ingest.dicom(tmp_path / "x.dcm", NOISE)
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = coding
    header.PixelData = encapsulate([header.PixelData])
    header["PixelData"].is_undefined_length = True
    header.save_as(path, implicit_vr=False, little_endian=True)
    with pytest.raises(RejectedError, match=f"coding that cannot be read here .{reported}") as caught:
        read_image(path, 8)
    assert "7741903" not in str(caught.value)


@pytest.mark.parametrize(
    "tags, spacing",
    [
        ({"PixelSpacing": "0.2"}, None),
        ({"PixelSpacing": "0.2", "ImagerPixelSpacing": ["0.3", "0.4"]}, (0.3, 0.4)),
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": ["1e300", "0.2"]}, None),
    ],
)
def test_a_spacing_that_is_none_does_not_cost_the_image(
    tmp_path: Path, tags: dict, spacing: tuple[float, float] | None
) -> None:
    assert read_image(ingest.dicom(tmp_path / "x.dcm", NOISE, **tags), 8).spacing == spacing


@pytest.mark.parametrize("meta, implicit", [(True, False), (False, True), (False, False)])
def test_files_without_a_preamble(tmp_path: Path, meta: bool, implicit: bool) -> None:
    path = ingest.dicom(tmp_path / "x.dcm", NOISE)
    expected = read_image(path, 16).pixels
    if meta:
        path.write_bytes(path.read_bytes()[132:])
    else:
        header = pydicom.dcmread(path)
        header.file_meta, header.preamble = pydicom.dataset.FileMetaDataset(), None
        header.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    with path.open("rb") as file:
        assert is_dicom(file) and read_header(file)["patient"] == ingest.IDENTITY["PatientID"]
    np.testing.assert_array_equal(read_image(path, 16).pixels, expected)


def test_blank_values_of_a_header_count_as_absent(tmp_path: Path) -> None:
    with ingest.dicom(tmp_path / "x.dcm", NOISE, PatientID="  ", PatientSex="").open("rb") as file:
        assert set(read_header(file)) == {"study"}


@pytest.mark.parametrize("bits, packed", [(12, False), (8, False), (8, True)])
@pytest.mark.parametrize("start", [0, 500, -700])
def test_a_table_of_shown_values(tmp_path: Path, bits: int, packed: bool, start: int) -> None:
    """PS3.3 C.11.2.1.1: beyond its ends a table shows its ends; here these are black and white, too."""
    entries = np.sort(np.random.default_rng(1).integers(3, 2**bits, 1000)).astype(np.uint16)
    table = pydicom.Dataset()
    table.add_new("LUTDescriptor", "SS", [1000, start, bits])
    if packed:
        table.add_new("LUTData", "OW", entries.astype(np.uint8).tobytes())
    else:
        table.add_new("LUTData", "US", entries.tolist())
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-1000"}
    image = read_image(ingest.dicom(tmp_path / "x.dcm", NOISE, VOILUTSequence=[table], **rescale), 16)
    mapped = entries[np.clip(NOISE.astype(int) - 1000 - start, 0, 999)].astype(int)
    np.testing.assert_array_equal(image.pixels, mapped - entries[0])
    assert image.high == entries[-1] - entries[0]


@pytest.mark.parametrize("depth", [8, 16])
def test_palettes_are_looked_up(tmp_path: Path, depth: int) -> None:
    """Tables of 16 bits hold 8 in the upper half; an index beyond the table shows its last entry."""
    colours = np.random.default_rng(2).integers(0, 256, (3, 200)).astype(np.uint8)
    tags: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in zip(("Red", "Green", "Blue"), colours, strict=True):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [200, 0, depth]
        wide = values if depth == 8 else values.astype(np.uint16) << 8
        tags[f"{name}PaletteColorLookupTableData"] = wide.tobytes()
    indices = NOISE % 210
    image = read_image(ingest.dicom(tmp_path / "x.dcm", indices, **tags), 8)
    red, green, blue = colours[:, np.minimum(indices, 199)].astype(float)
    assert np.abs(image.pixels - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51
    assert (image.low, image.high) == (0, 255)


@pytest.mark.parametrize("sign", [0, 1])
def test_unused_bits_do_not_count(tmp_path: Path, sign: int) -> None:
    """They may hold an overlay."""
    values = (NOISE.astype(int) - 2048 * sign).astype(np.int16 if sign else np.uint16)
    rubbish = np.random.default_rng(3).integers(0, 16, NOISE.shape).astype(np.uint16) << 12
    stored = (values.view(np.uint16) & 0x0FFF) | rubbish
    path = ingest.dicom(tmp_path / "x.dcm", stored.view(values.dtype))
    np.testing.assert_array_equal(read_image(path, 16).pixels, values.astype(int) - values.min())
