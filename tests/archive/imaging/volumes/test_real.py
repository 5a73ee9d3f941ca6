"""Real series and volumes: what other readers make of them, and what a look at them must show."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from archive.imaging.volumes import make
from needs import real_data
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates
from unpacked import unpack

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.rejection import GeometryError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import prepare, read_volume, read_volume_mask
from dira_scale.archive.imaging.volumes.series import Series

pytestmark = pytest.mark.data


def assert_same_as(volume: Volume, image: nibabel.Nifti1Image) -> None:
    """At 2,000 places of the patient: the value that nibabel has there."""
    values = np.asarray(image.dataobj)
    index = np.random.default_rng(0).integers(0, values.shape[:3], (2000, 3))
    x, y, z = np.rint(apply_affine(np.linalg.inv(volume.affine) @ image.affine, index)).astype(int).T
    stored = volume.voxels[z, y, x] * volume.scale + volume.offset
    np.testing.assert_allclose(stored, values[tuple(index.T)], atol=0.51 * volume.scale if volume.scale != 1 else 0)


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """GE's head CT: 28 slices, gantry tilt of 18.5 degrees, 4 mm apart, then 7, with one step of 1.08 between."""
    folder = tmp_path_factory.mktemp("ge")
    unpack(real_data("dicom_ct_series_ge") / "GE_28slices.tar.xz", folder)
    return sorted(folder.rglob("*.dcm"))


def test_a_tilted_uneven_head(tilted: list[Path]) -> None:
    """By hand: slices 4.22 and 7.38 mm apart along the table stand 4.0 and 7.0 apart along their normal."""
    series = Series.of(tilted[0].parent, [path.name for path in tilted])
    with pytest.raises(GeometryError, match="gantry tilt"):
        series.read(make.settings(irregular="refuse"))
    volume = series.read(make.settings())
    step = 4.22 * np.cos(np.radians(18.5))
    assert volume.spacing == pytest.approx((step, 0.4882812, 0.4882812), abs=1e-3)
    height = (157.7760586 - 5.8360586) * np.cos(np.radians(18.5))
    drift = (157.7760586 - 5.8360586) * np.sin(np.radians(18.5)) / 0.4882812
    assert volume.shape == (1 + int(height / step), 512 + int(np.ceil(drift)), 512)
    # Each slice as ITK reads it, at its own place in the patient: where an output slice falls onto it, it is it.
    for number, at in ((0, 0), (5, 5), (13, 13)):
        image = sitk.ReadImage(tilted[number])
        plane = sitk.GetArrayFromImage(image)[0].astype(float)
        rows, columns = np.mgrid[60:450:7, 60:450:7]
        points = [image.TransformIndexToPhysicalPoint((int(c), int(r), 0))
                  for r, c in zip(rows.ravel(), columns.ravel(), strict=True)]  # fmt: skip
        x, y, z = apply_affine(np.linalg.inv(volume.affine), np.array(points) * [-1, -1, 1]).T
        np.testing.assert_allclose(z, at, atol=0.01)
        here = map_coordinates(volume.voxels[at].astype(float), [y, x], order=1)
        # ours is interpolated once between rows, and here once more: on average a small part of the rows' differences
        rough = np.abs(np.diff(plane, axis=0)).mean()
        assert np.abs(here - plane[rows, columns].ravel()).mean() < rough
        assert abs(np.median(here - plane[rows, columns].ravel())) < 1
    assert volume.voxels.min() > -1100  # its padding of -3024 HU is nowhere


def test_a_body_and_its_organs() -> None:
    """The liver stays the liver: at another spacing, in a crop, its own HU and place."""
    folder = real_data("totalsegmentator_ct") / "tests/reference_files"
    path = folder / "example_ct_sm.nii.gz"
    volume = read_volume(path, make.settings())
    assert_same_as(volume, nibabel.load(path))
    mask = read_volume_mask(folder / "example_seg.nii.gz", volume)
    organs = np.asarray(nibabel.load(folder / "example_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(np.bincount(mask.ravel()), np.bincount(organs.ravel()))
    liver = np.argwhere(mask == 5)
    first, last = liver.min(axis=0), liver.max(axis=0) + 1
    (z, y, x), (d, h, w) = first.tolist(), (last - first).tolist()
    new, drawn, (box,) = prepare(
        volume, mask, (Box("liver", y, x, h, w, z, d),), make.settings(spacing=(2.0, 1.7, 1.7), crop="body").volume
    )
    assert drawn is not None
    assert np.median(new.voxels[drawn == 5]) == pytest.approx(np.median(volume.voxels[mask == 5]), abs=3)
    found = np.argwhere(drawn == 5)
    np.testing.assert_allclose((box.z, box.y, box.x), found.min(axis=0), atol=1.6)
    np.testing.assert_allclose((box.z + box.d, box.y + box.h, box.x + box.w), found.max(axis=0) + 1, atol=1.6)
