"""Volumes of one file: what nibabel and SimpleITK read is what we read, and what is broken has its reason."""

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from archive.imaging.volumes import make

from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import read_volume, read_volume_mask
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.read import grid_of
from dira_scale.archive.imaging.volumes.regrid import stack_of

RAS, LPS = np.diag([1.0, 1, 1, 1]), np.diag([-1.0, -1, 1, 1])


def affine_of(spacing: tuple[float, float, float], turn: np.ndarray | None = None) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * spacing
    affine[:3, 3] = (3, -40, 17)
    return affine


def turns() -> dict[str, np.ndarray]:
    """Axes in every kind of order, and turned by some degrees."""
    some = np.array([[0.98, -0.17, 0.1], [0.17, 0.98, 0.05], [-0.1, -0.03, 1]])
    rotation, _ = np.linalg.qr(some)
    rotation *= np.sign(np.diag(rotation))
    return {
        "RAS": np.eye(3), "LPS": np.diag([-1.0, -1, 1]), "PIR": np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]),
        "oblique": rotation, "oblique SAL": rotation @ np.array([[0, 0, -1.0], [0, 1, 0], [1, 0, 0]]),
    }  # fmt: skip


def assert_same_places(volume: Volume, values: np.ndarray, affine: np.ndarray) -> None:
    """Each voxel [X, Y, Z] of the file is in ``volume`` where its affine says; all of them, none interpolated."""
    index = np.stack(np.indices(values.shape), -1).reshape(-1, 3)
    locations = index @ affine[:3, :3].T + affine[:3, 3]
    back = np.linalg.inv(volume.affine)
    x, y, z = np.rint(locations @ back[:3, :3].T + back[:3, 3]).astype(int).T
    stored = volume.voxels[z, y, x] * volume.scale + volume.offset
    np.testing.assert_allclose(stored, values.ravel(), atol=volume.scale / 2 if volume.scale != 1 else 0)
    assert volume.voxels.size == values.size
    unit = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert (np.diag(unit) * [-1, -1, 1] > 0.7).all()


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("turn", turns())
def test_nifti_as_nibabel_reads_it(tmp_path: Path, name: str, turn: str) -> None:
    values = make.smooth((11, 9, 7)).astype(np.int16)
    nibabel.Nifti1Image(values, affine_of((0.7, 0.8, 2.5), turns()[turn])).to_filename(tmp_path / name)
    image = nibabel.load(tmp_path / name)
    assert_same_places(read_volume(tmp_path / name, make.settings()), np.asarray(image.dataobj), image.affine)


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", ">i2", "<i4", ">u4", "<f4", ">f8", "<i8"])
@pytest.mark.parametrize("form", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_of_any_type(tmp_path: Path, kind: str, form: type) -> None:
    values = (np.abs(make.smooth((9, 8, 7))) % 120).astype(kind)
    image = form(values, affine_of((1, 1, 1)), dtype=np.dtype(kind))
    image.header.set_data_dtype(np.dtype(kind))
    image.to_filename(tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz", make.settings("MR"))
    assert volume.scale == 1  # whole numbers that fit are kept exactly, whatever holds them
    assert_same_places(volume, values.astype(float), image.affine)


@pytest.mark.parametrize("slope, offset", [(1, -1024), (2, 0), (0.37, 5)])
def test_nifti_is_scaled(tmp_path: Path, slope: float, offset: float) -> None:
    image = nibabel.Nifti1Image(np.abs(make.smooth((9, 8, 7))).astype(np.int16), RAS)
    image.header.set_slope_inter(slope, offset)
    image.to_filename(tmp_path / "x.nii")
    expected = nibabel.load(tmp_path / "x.nii").get_fdata()
    assert_same_places(read_volume(tmp_path / "x.nii", make.settings("MR")), expected, RAS)
    rounded = read_volume(tmp_path / "x.nii", make.settings("CT")).voxels[:, ::-1, ::-1].T
    assert np.abs(rounded - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("which", ["sform", "qform", "neither"])
def test_nifti_takes_the_affine_that_nibabel_takes(tmp_path: Path, which: str) -> None:
    image = nibabel.Nifti1Image(make.smooth((9, 8, 7)).astype(np.int16), None)
    image.header.set_zooms((0.7, 0.8, 2.5))
    if which == "sform":
        image.set_qform(affine_of((0.7, 0.8, 2.5)), 1)
        image.set_sform(affine_of((0.7, 0.8, 2.5), turns()["oblique"]), 2)
    elif which == "qform":
        image.set_qform(affine_of((0.7, 0.8, 2.5), turns()["oblique"]), 1)
        image.header["sform_code"] = 0
    image.to_filename(tmp_path / "x.nii")
    read = nibabel.load(tmp_path / "x.nii")
    assert_same_places(read_volume(tmp_path / "x.nii", make.settings()), np.asarray(read.dataobj), read.affine)


def test_channels_come_first(tmp_path: Path) -> None:
    values = make.smooth((9, 8, 7, 4)).astype(np.int16)
    nibabel.Nifti1Image(values, LPS).to_filename(tmp_path / "x.nii.gz")
    volume = read_volume(tmp_path / "x.nii.gz", make.settings())
    np.testing.assert_array_equal(volume.voxels, values.T)
    np.save(tmp_path / "x.npy", values.T)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.npy", make.settings()).voxels, values.T)


# -- MetaImage, NRRD, TIFF, NumPy

WRITERS: dict[str, dict[str, Any]] = {
    "x.mha": {}, "x.mhd": {}, "z.mha": {"useCompression": True}, "z.mhd": {"useCompression": True},
    "x.nrrd": {}, "z.nrrd": {"useCompression": True}, "x.nhdr": {},
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("turn", ["LPS", "oblique"])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_metaimage_and_nrrd_as_itk_reads_them(tmp_path: Path, name: str, turn: str, kind: type) -> None:
    image = sitk.GetImageFromArray(make.smooth((7, 9, 11)).astype(kind))
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((3, -40, 17))
    image.SetDirection(turns()[turn].ravel().tolist())
    sitk.WriteImage(image, tmp_path / name, **WRITERS[name])
    read = sitk.ReadImage(tmp_path / name)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) * read.GetSpacing()
    affine[:3, 3] = read.GetOrigin()
    assert_same_places(read_volume(tmp_path / name, make.settings()), sitk.GetArrayFromImage(read).T, LPS @ affine)


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_vectors_of_metaimage_and_nrrd_are_channels(tmp_path: Path, name: str) -> None:
    values = make.smooth((7, 9, 11, 3)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name, make.settings()).voxels, np.moveaxis(values, -1, 0))


def test_a_compressed_array_of_a_nrrd_from_another_writer(tmp_path: Path) -> None:
    """RAS space, a comment, no spacing but directions, big-endian: as 3D Slicer's older files."""
    values = make.smooth((7, 9, 11)).astype(">i2")
    header = (
        "NRRD0005\n# written by hand\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 11 9 7\n"
        "space directions: (0.7,0,0) (0,0.8,0) (0,0,2.5)\nkinds: domain domain domain\nendian: big\nencoding: gzip\n"
        "space origin: (3,-40,17)\n\n"
    )
    (tmp_path / "x.nrrd").write_bytes(header.encode() + gzip.compress(values.tobytes()))
    assert_same_places(read_volume(tmp_path / "x.nrrd", make.settings()), values.T, affine_of((0.7, 0.8, 2.5)))


def test_stacks_and_arrays_are_axial(tmp_path: Path) -> None:
    values = np.abs(make.smooth((7, 9, 11))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack")
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "x.npz", values)
    for name in ("x.tif", "x.npy", "x.npz"):
        volume = read_volume(tmp_path / name, make.settings("MR", range=None))
        np.testing.assert_array_equal(volume.voxels, values)
        np.testing.assert_array_equal(volume.affine, LPS)


@pytest.mark.parametrize("shape", [(7, 30, 20), (3, 7, 30, 20)])
def test_black_and_white_are_percentiles_or_the_recipes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(-200, 3000, shape).astype(np.int16)
    np.save(tmp_path / "x.npy", values)
    volume = read_volume(tmp_path / "x.npy", make.settings("MR", range=None))
    expected = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
    assert (volume.low, volume.high) == tuple(expected)
    np.save(tmp_path / "x.npy", values / 7)  # scaled: the recipe's range is of the source's values
    volume = read_volume(tmp_path / "x.npy", make.settings("MR", range=(-100, 400)))
    ends = np.array([volume.low, volume.high]) * volume.scale + volume.offset
    np.testing.assert_allclose(ends, (-100, 400))


# -- shear


def test_a_sheared_affine_is_straightened_or_refused(tmp_path: Path) -> None:
    """A plane wave along the world's y, seen through slices that slide along y, is still one."""
    affine = affine_of((1, 1, 3))
    affine[1, 2] = 1.2  # mm along y from slice to slice
    index = np.stack(np.indices((9, 30, 8)), -1)
    wave = np.rint(300 * np.sin((index @ affine[:3, :3].T + affine[:3, 3])[..., 1] / 5))
    image = nibabel.Nifti1Image(wave.astype(np.int16), None)
    image.set_sform(affine, 1)
    image.to_filename(tmp_path / "x.nii")
    with pytest.raises(RejectedError, match="uneven distances"):
        read_volume(tmp_path / "x.nii", make.settings(irregular="refuse"))
    volume = read_volume(tmp_path / "x.nii", make.settings())
    z, y, x = np.indices(volume.shape)
    there = volume.affine[1] @ np.stack([x.ravel(), y.ravel(), z.ravel(), np.ones(x.size)])
    row = there - affine[1, 3] - affine[1, 2] * z.ravel()  # of its slice in the file
    shown = (row >= 0) & (row <= 29)
    np.testing.assert_allclose(volume.voxels.ravel()[shown], 300 * np.sin(there[shown] / 5), atol=6)
    assert shown.sum() >= 8 * 9 * 29
    assert np.allclose(grid_of(tmp_path / "x.nii")[1].affine, volume.affine)
    mask = nibabel.Nifti1Image((wave > 100).astype(np.uint8), None)
    mask.set_sform(affine, 1)
    mask.to_filename(tmp_path / "m.nii")
    drawn = read_volume_mask(tmp_path / "m.nii", volume)
    inside = shown & (np.abs(volume.voxels.ravel() - 100) > 60)
    np.testing.assert_array_equal(drawn.ravel()[inside], (volume.voxels.ravel() > 100)[inside])


@pytest.mark.parametrize("row, column, value, reason", [(0, 1, 0.1, "not rectangles"), (0, 3, 1e308, "not a number")])
def test_grids_that_cannot_be_straightened_or_stored_are_refused(
    row: int, column: int, value: float, reason: str
) -> None:
    """Shifting slices straightens no rows that lean; 1e308 is infinite in the manifest's float32."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[row, column] = value
    with pytest.raises(GeometryError, match=reason):
        stack_of(Grid((4, 5, 6), affine).check())


# -- masks


def test_a_mask_may_be_stored_in_another_order(tmp_path: Path) -> None:
    values = make.smooth((11, 9, 7)).astype(np.int16)
    nibabel.Nifti1Image(values, affine_of((0.7, 0.8, 2.5))).to_filename(tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii", make.settings())
    turned = nibabel.as_closest_canonical(nibabel.load(tmp_path / "x.nii")).as_reoriented(
        nibabel.orientations.axcodes2ornt("PIR")
    )
    mask = (np.asarray(turned.dataobj) > 100).astype(np.float32) * 7
    nibabel.Nifti1Image(mask, turned.affine).to_filename(tmp_path / "m.nii.gz")
    drawn = read_volume_mask(tmp_path / "m.nii.gz", volume)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, (volume.voxels > 100) * 7)


@pytest.mark.parametrize(
    "mask, affine, reason",
    [
        (np.zeros((11, 9, 6)), affine_of((0.7, 0.8, 2.5)), "grid is not"),
        (np.zeros((11, 9, 7)), affine_of((0.7, 0.8, 2.6)), "grid is not"),
        (np.full((11, 9, 7), 0.5), affine_of((0.7, 0.8, 2.5)), "integers from 0"),
        (np.full((11, 9, 7), np.nan), affine_of((0.7, 0.8, 2.5)), "integers from 0"),
        (np.zeros((11, 9, 7, 2)), affine_of((0.7, 0.8, 2.5)), "several channels"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path, mask: np.ndarray, affine: np.ndarray, reason: str) -> None:
    image = make.smooth((11, 9, 7)).astype(np.int16)
    nibabel.Nifti1Image(image, affine_of((0.7, 0.8, 2.5))).to_filename(tmp_path / "x.nii")
    nibabel.Nifti1Image(mask, affine).to_filename(tmp_path / "m.nii")
    with pytest.raises(RejectedError, match=reason):
        read_volume_mask(tmp_path / "m.nii", read_volume(tmp_path / "x.nii", make.settings()))


# -- broken files


def nifti(edit: Callable[[bytearray], Any] = lambda b: None, values: np.ndarray | None = None) -> bytes:
    values = np.arange(210).reshape(7, 6, 5).astype(np.int16) if values is None else values
    content = bytearray(nibabel.Nifti1Image(values, RAS).to_bytes())
    edit(content)
    return bytes(content)


def set_at(offset: int, kind: str, *numbers: float) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(f"<{len(numbers)}{kind}", content, offset, *numbers)


def metaimage(**changes: str) -> bytes:
    keys = {
        "ObjectType": "Image", "NDims": "3", "DimSize": "5 6 7", "ElementSpacing": "1 1 1", "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    } | changes  # fmt: skip
    location = keys.pop("ElementDataFile")  # the last key by definition
    text = "".join(f"{key} = {value}\n" for key, value in [*keys.items(), ("ElementDataFile", location)])
    return text.encode() + np.arange(210, dtype=np.int16).tobytes()


def nrrd(changes: dict[str, str]) -> bytes:
    keys = {"type": "short", "dimension": "3", "sizes": "5 6 7", "endian": "little", "encoding": "raw"} | changes
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in keys.items()) + "\n"
    return text.encode() + np.arange(210, dtype=np.int16).tobytes()


whole = np.arange(210.0).reshape(7, 6, 5)
BROKEN = {
    "empty": (b"", "empty"),
    "nifti cut short": (nifti()[:-20], "ends before"),
    "nifti.gz cut short": (gzip.compress(nifti())[:-30], "damaged or cut short"),
    "nifti header only": (nifti()[:200], "damaged or missing NIfTI"),
    "nifti in two files": (nifti(lambda b: b.__setitem__(slice(344, 348), b"ni1\0")), "two files"),
    "nifti of absurd size": (nifti(set_at(42, "h", 32767, 32767, 32767)), "more than"),
    "nifti in time": (nifti(values=np.zeros((3, 3, 3, 40), np.int16)), "series in time"),
    "nifti of two axes": (nifti(values=np.zeros((30, 30), np.int16)), "fewer than three"),
    "nifti of colours": (nifti(set_at(70, "h", 128)), "colours"),
    "nifti of negative spacing": (nifti(set_at(80, "f", 1, -1, 1)), "zero, negative"),
    "nifti with a flat sform": (nifti(set_at(280, "f", 0, 0, 0, 0)), "zero, negative|do not span"),
    "nifti with an sform of NaN": (nifti(set_at(280, "f", float("nan"))), "not a number"),
    "nifti of NaN": (nifti(values=np.where(whole == 7, np.nan, whole)), "NaN or infinite"),
    "nifti of one value": (nifti(values=np.ones((4, 4, 4), np.int16)), "equal"),
    "metaimage of negative size": (metaimage(DimSize="5 -6 7"), "negative size"),
    "metaimage of spacing NaN": (metaimage(ElementSpacing="1 nan 1"), "zero, negative"),
    "metaimage of flat axes": (metaimage(TransformMatrix="1 0 0 1 0 0 0 0 1"), "do not span"),
    "metaimage with a list": (metaimage(ElementDataFile="LIST"), "is missing"),
    "metaimage that looks elsewhere": (metaimage(ElementDataFile="/etc/passwd"), "outside its folder"),
    "metaimage without an end": (b"ObjectType = Image\n" * 5, "without ElementDataFile"),
    "metaimage of a strange type": (metaimage(ElementType="MET_OTHER"), "damaged MetaImage"),
    "nrrd in text": (nrrd({"encoding": "ascii"}), "another encoding"),
    "nrrd of negative spacing": (nrrd({"spacings": "1 -1 1"}), "zero, negative"),
    "nrrd without sizes": (b"NRRD0004\ntype: short\n\n", "damaged NRRD"),
    "tiff cut short": (b"II*\0\x08\0\0\0", "damaged TIFF"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_has_its_reason(tmp_path: Path, what: str) -> None:
    content, reason = BROKEN[what]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RejectedError, match=reason):
        read_volume(tmp_path / "x", make.settings("MR", range=None))


def test_a_header_s_data_file_is_no_link_out_of_its_folder(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (4, 4, 4), np.int16).tobytes()
    folder = tmp_path / "scan"
    folder.mkdir()
    (folder / "beside.raw").write_bytes(voxels)
    (tmp_path / "secret.raw").write_bytes(voxels)
    (folder / "x").write_bytes(metaimage(DimSize="4 4 4", ElementDataFile="x.raw"))
    (folder / "x.raw").symlink_to("beside.raw")
    assert read_volume(folder / "x", make.settings("MR", range=None)).voxels.size == 64
    (folder / "x.raw").unlink()
    (folder / "x.raw").symlink_to(tmp_path / "secret.raw")
    with pytest.raises(RejectedError, match="is a link that leaves its folder"):
        read_volume(folder / "x", make.settings("MR", range=None))


def test_the_unbroken_ones_are_read(tmp_path: Path) -> None:
    """Else the reasons above might be others'."""
    for content in (nifti(), gzip.compress(nifti()), metaimage(), nrrd({})):
        (tmp_path / "x").write_bytes(content)
        assert read_volume(tmp_path / "x", make.settings()).voxels.size == 210


SKIP = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 5 6 7\nencoding: gzip\nbyte skip: 999999999999\n\n"


@pytest.mark.parametrize(
    "name, content, reason, bound",
    [
        ("x.nii.gz", lambda: gzip.compress(nifti() + bytes(2**26), 9), "continue after the values", 2**22),
        ("x.nrrd", lambda: SKIP + gzip.compress(bytes(2**26), 9), "ends before its values do", 2**25),
    ],
)
def test_a_stream_of_64_mb_of_zeros_stays_compressed(
    name: str, content: Callable[[], bytes], reason: str, bound: int, tmp_path: Path
) -> None:
    """Behind the values, so that their checksum is unknown, or to be skipped; a few bytes are nobody's harm."""
    (tmp_path / name).write_bytes(content())
    tracemalloc.start()
    try:
        with pytest.raises(RejectedError, match=reason):
            read_volume(tmp_path / name, make.settings())
        assert tracemalloc.get_traced_memory()[1] < bound
    finally:
        tracemalloc.stop()
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(nifti() + bytes(1000)))
    assert read_volume(tmp_path / "x.nii.gz", make.settings()).voxels.size == 210


def test_damage_that_makes_a_stream_longer_is_noticed(tmp_path: Path) -> None:
    """Zeros are a code of each of deflate's blocks: its stream goes on, and no checksum is met."""
    values = np.random.default_rng(0).normal(0, 30, (40, 60, 60)).astype(np.int16)
    whole = gzip.compress(nibabel.Nifti1Image(values, LPS).to_bytes())
    (tmp_path / "x.nii.gz").write_bytes(whole)
    read_volume(tmp_path / "x.nii.gz", make.settings())
    for start in range(1000, len(whole), len(whole) // 9):
        (tmp_path / "x.nii.gz").write_bytes(whole[:start] + bytes(4 * len(whole)))
        with pytest.raises(RejectedError):
            read_volume(tmp_path / "x.nii.gz", make.settings())
