"""Every DICOM file that pydicom ships, and those of the folder of real images, against SimpleITK's own decoders."""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from needs import real_data
from PIL import Image
from pydicom.pixels import pixel_array

from dira_scale.archive.imaging.dicom.codestream import PLUGINS
from dira_scale.archive.imaging.dicom.frames import DicomFile
from dira_scale.archive.imaging.rejection import RejectedError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"

NO_IMAGE = "DICOM without an image, or cut short before it"
BITS = "DICOM of other than 8 or 16 bits a pixel"
SEG = "DICOM SEG, which is no image"
UNKNOWN = "DICOM in a coding that cannot be read here"
# Which files are no image that can be read, and the reason.
REFUSED = {
    **dict.fromkeys(
        ["ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta", "UN_sequence", "empty_charset_LEI", "meta_missing_tsyntax",
         "nested_priv_SQ", "no_meta", "no_meta_group_length", "priv_SQ", "rtplan", "rtplan_truncated", "waveform_ecg",
         "DICOMDIR", "DICOMDIR-bigEnd",
         "DICOMDIR-empty", "DICOMDIR-implicit", "DICOMDIR-nooffset", "DICOMDIR-nopatient", "DICOMDIR-reordered"],
        NO_IMAGE,
    ),
    **dict.fromkeys(
        ["rtdose", "rtdose_1frame", "rtdose_expb", "rtdose_expb_1frame",
         "rtdose_rle", "rtdose_rle_1frame", "SC_rgb_rle_32bit", "SC_rgb_rle_32bit_2frame", "SC_rgb_32bit",
         "SC_rgb_32bit_2frame", "SC_rgb_expb_32bit"],
        BITS,
    ),
    **dict.fromkeys(
        ["liver_1frame", "liver_expb_1frame", "liver", "liver_deflate", "liver_j2k", "liver_nonbyte_aligned",
         "liver_nonbyte_aligned_deflate", "liver_nonbyte_aligned_j2k", "liver_rle"],
        SEG,
    ),
    **dict.fromkeys(["reportsi", "reportsi_with_empty_number_tags", "test-SR"], "DICOM SR, which is no image"),
    "rtstruct": "DICOM RTSTRUCT, which is no image",
    "MR_truncated": "damaged or cut short",
    "JPEG2000-embedded-sequence-delimiter": "damaged or cut short",  # its fragments end in the midst of the stream
    "badVR": "DICOM header is damaged",
    "parametric_map_double_float": "DICOM without pixels, or with pixels that are not integers",
    "CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55": UNKNOWN,
    "CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53": UNKNOWN,
}  # fmt: skip


def dicom_files(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in sorted(folder.glob(pattern)) if path.is_file() and "TINY_ALPHA" not in path.parts]
    return [path for path in found if path.suffix in ("", ".dcm")]


def check(path: Path) -> None:
    """Decoded as SimpleITK decodes it, or refused for the reason of the table above."""
    name = path.name.removesuffix(".dcm")
    with path.open("rb") as file:
        if name in REFUSED:
            with pytest.raises(RejectedError) as caught:
                DicomFile(file).frame()
            assert str(caught.value).startswith(REFUSED[name])
            return
        dicom = DicomFile(file)
        frames = [dicom.frame(number) for number in range(dicom.count)]
    got, photometric = np.stack([frame.values for frame in frames]), str(dicom.header.PhotometricInterpretation)
    if photometric.startswith("YBR_FULL"):  # SimpleITK makes RGB of it, rounded and clipped
        expected = luma(path)
    elif name == "JLSL_08_07_0_1F":  # SimpleITK cannot read its 7 bits
        assert got.shape == (1, 128, 128) and (got.min(), got.max()) == (0, 127)
        return
    elif name == "SC_rgb_jpeg":  # whose header takes SimpleITK seconds
        (stream,) = pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
        picture = Image.open(io.BytesIO(stream))
        picture.draft("YCbCr", picture.size)  # its components as they are, which are red, green and blue
        expected = grey(np.asarray(picture))
    elif name.startswith("SC_rgb_rle_16bit"):  # SimpleITK swaps its bytes
        expected = grey(pixel_array(path, raw=True, decoding_plugin="pydicom"))
    else:
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        expected = grey(expected) if expected.ndim == 4 else expected
    if photometric == "MONOCHROME1":  # SimpleITK turns it round
        assert all(frame.inverted for frame in frames)
        np.testing.assert_allclose(got + expected, (got + expected).flat[0])
    else:
        np.testing.assert_array_equal(got, expected.reshape(got.shape))


def grey(colours: np.ndarray) -> np.ndarray:
    if colours.dtype == np.uint8:
        flat = Image.fromarray(colours.reshape(-1, colours.shape[-2], 3)).convert("L")
        return np.asarray(flat).reshape(colours.shape[:-1])
    return np.rint(colours @ np.array([19595, 38470, 7471]) / 2**16)


def luma(path: Path) -> np.ndarray:
    """Y as it lies in the file, or as Pillow finds it in a JPEG."""
    header = pydicom.dcmread(path)
    if header.file_meta.TransferSyntaxUID.is_compressed:
        return pixel_array(header, raw=True, decoding_plugin="pillow")[..., 0]
    samples = np.frombuffer(header.PixelData, np.uint8)
    if header.PhotometricInterpretation == "YBR_FULL":
        assert header.PlanarConfiguration == 0
        return samples.reshape(-1, 3)[:, 0]
    return samples[: header.Rows * header.Columns * 2].reshape(-1, 4)[:, :2]  # Y Y Cb Cr


@pytest.mark.parametrize("path", dicom_files(SHIPPED, "**/*"), ids=lambda path: path.name)
def test_what_pydicom_ships(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(path)


@pytest.mark.data
@pytest.mark.parametrize("folder", ["dicom_cornerstone_ct", "dicom_pydicom_data", "dicom_lungmask_ct"])
def test_real_files(folder: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in dicom_files(real_data(folder), "*.dcm"):
            check(path)


def test_high_throughput_jpeg_2000(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")  # OpenJPH writes, OpenJPEG reads
    stored = np.random.default_rng(0).integers(-2000, 2000, (60, 48)).astype(np.int16)
    header = pydicom.dcmread(SHIPPED / "MR_small.dcm")
    header.Rows, header.Columns = stored.shape
    stream = imagecodecs.htj2k_encode(stored)
    for coding in ("201", "202", "203"):
        header.PixelData = pydicom.encaps.encapsulate([stream])
        header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
        header.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{coding}"
        header.save_as(tmp_path / "x.dcm")
        with (tmp_path / "x.dcm").open("rb") as file:
            np.testing.assert_array_equal(DicomFile(file).frame().values, stored)


def test_the_table_of_codings_in_the_docs_is_whole() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reference" / "shards.md").read_text()
    for syntax in PLUGINS:
        assert f"`{syntax.removeprefix('1.2.840.10008.1.2')}`" in text, syntax
