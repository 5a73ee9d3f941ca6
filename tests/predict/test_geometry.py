"""Folders of DICOM: read as a conversion reads them, and masks back on the source's grid."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
import torch
from archive.imaging.volumes.make import series as dicom_series
from archive.imaging.volumes.make import slice as dicom_slice
from archive.imaging.volumes.make import smooth

from dira_scale.base.config.compose import defaults
from dira_scale.base.errors import UserError
from dira_scale.predict.config import KEYS, SOURCE
from dira_scale.predict.folder import FolderImages
from dira_scale.predict.geometry import ImageGeometry, Space


def conversion(recipe: str, **keys: Any) -> dict[str, Any]:
    """As in ``dataset.json``."""
    values: dict[str, Any] = {**defaults("shard", [f"recipe={recipe}", "recipe.name=a", "recipe.images=x"]).recipe}
    values["volume"] = {**values["volume"]} | keys.pop("volume", {})
    whole = {"codec": "b2nd", "bits": 16} if recipe == "volumes" else {"codec": "png", "bits": 8}
    return values | whole | {"burned_in": "keep"} | keys


def test_a_dicom_series_cropped_and_resampled_comes_back_on_its_own_grid(tmp_path: Path) -> None:
    values = np.full((20, 60, 70), -1000.0)
    values[:, 20:40, 24:50] = smooth((20, 20, 26)) / 3
    dicom_series(tmp_path / "images", values)
    volume = {"spacing": [1.9, 1.0, 0.9], "crop": "body", "range": [-1000, 1000]}
    images = FolderImages(
        str(tmp_path / "images"), conversion("volumes", modality="CT", volume=volume), 3, KEYS, None, 1
    )
    loaded = images.load(0)
    assert loaded.stored.sides != values.shape and len(images.keys[0]) == 24 and "7741903" not in str(images.about)
    restored = loaded.geometry.restored(loaded.stored.image())[0].numpy()
    expected = (values + 1000) / 2000
    assert restored.shape == values.shape
    assert np.abs(restored - expected)[:, 21:39, 25:49].max() < 0.05  # resampled twice
    assert (restored[:, :5] == 0).all()  # cropped away
    mask = (restored > 0.5).astype(np.uint8)
    (tmp_path / "mask.nii.gz").write_bytes(loaded.geometry.encoded(mask))
    written = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(
        written.affine, [[-0.7, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2, 40], [0, 0, 0, 1]], atol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask.transpose(2, 1, 0))


def test_a_dicom_image_is_a_plane_of_its_own_size_and_spacing(tmp_path: Path) -> None:
    pixels = smooth((50, 71)).astype(np.int16)
    dicom_slice(tmp_path / "images" / "a.dcm", pixels, (0, 0, 0), PixelSpacing=[0.2, 0.25])
    images = FolderImages(str(tmp_path / "images"), conversion("folder", max_side=40), 2, SOURCE, None, 1)
    loaded = images.load(0)
    assert (images.keys, images.targets, images.name(0)) == (["a.dcm"], ["a"], "a.dcm")
    assert (
        max(loaded.stored.sides) == 40
        and isinstance(loaded.geometry, ImageGeometry)
        and loaded.geometry.sides == (50, 71)
    )
    (tmp_path / "mask.png").write_bytes(loaded.geometry.encoded(np.eye(50, 71, dtype=np.uint8)))
    with PIL.Image.open(tmp_path / "mask.png") as written:
        assert written.size == (71, 50) and written.info["dpi"] == pytest.approx((25.4 / 0.25, 25.4 / 0.2), rel=1e-3)


@pytest.mark.parametrize("axes", [(2, 1, 0), (1, 2, 0)])
def test_mirrored_and_permuted_axes_move_voxels_without_change(axes: tuple[int, ...]) -> None:
    stored = np.diag([1.0, 2.0, 3.0, 1.0])
    values = torch.rand(2, 4, 5, 6)
    source = np.eye(4)  # its axes are some of the stored ones, the first backwards
    source[:3, :3] = stored[:3, :3][:, axes] * [-1, 1, 1]
    sides = np.array([6, 5, 4])  # x, y, z
    source[:3, 3] = stored[:3, axes[0]] * (sides[axes[0]] - 1)
    shape = tuple(sides[list(axes)][::-1].tolist())
    restored = Space(stored, shape, source).restored(values)
    expected = values.numpy().transpose(0, 3, 2, 1).transpose(0, *(1 + axis for axis in axes))[:, ::-1]
    np.testing.assert_allclose(restored.numpy(), expected.transpose(0, 3, 2, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("conversion_of", "dimensions", "printed"),
    [
        ({}, 2, "does not say how its images were read"),
        (conversion("folder"), 3, "like: the dataset has 2 dimensions, the network 3"),
        (conversion("volumes", modality="CT", slices={"plane": "axial"}), 2, "the network sees slices of volumes"),
    ],
)
def test_a_conversion_of_something_else_is_refused(
    conversion_of: dict[str, Any], dimensions: int, printed: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=printed):
        FolderImages(str(tmp_path), conversion_of, dimensions, KEYS, None, 1)
