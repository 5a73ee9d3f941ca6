"""Resampling against SciPy's filters written out, crops and clips against the voxels themselves; boxes and masks stay
on what they marked, which their places in the patient show."""

import numpy as np
import pytest
from archive.imaging.volumes import make
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy.ndimage import center_of_mass, gaussian_filter, map_coordinates

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import prepare
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.resample import resample


def affine_of(spacing: tuple[float, float, float]) -> np.ndarray:
    """Turned by some degrees; ``spacing`` in z, y, x."""
    turn, _ = np.linalg.qr(np.array([[0.98, -0.17, 0.1], [0.17, 0.98, 0.05], [-0.1, -0.03, 1]]))
    turn *= np.sign(np.diag(turn)) * [-1, -1, 1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing[::-1], (12, -7, 300)
    return affine


def volume_of(voxels: np.ndarray, spacing: tuple[float, float, float]) -> Volume:
    return Volume(voxels.astype(np.int16), affine_of(spacing), -1000, 1000)


def location(volume: Volume, zyx: tuple[float, ...]) -> np.ndarray:
    """Millimetres of an index."""
    return apply_affine(volume.affine, zyx[::-1])


def middle_of(box: Box) -> tuple[float, float, float]:
    return box.z + box.d / 2 - 0.5, box.y + box.h / 2 - 0.5, box.x + box.w / 2 - 0.5


@pytest.mark.parametrize(
    "spacing, wanted",
    [((2.5, 0.7, 0.7), (1.0, 1.0, 1.0)), ((1.0, 0.5, 0.5), (3.0, 2.0, 1.7)), ((1.0, 1.0, 1.0), (0.6, 1.0, 2.5))],
)
def test_resampling_is_a_gaussian_and_linear_interpolation(
    spacing: tuple[float, float, float], wanted: tuple[float, float, float]
) -> None:
    volume = volume_of(make.smooth((20, 30, 34)) + np.random.default_rng(0).normal(0, 50, (20, 30, 34)), spacing)
    new, _, _ = resample(volume, None, (), wanted)
    np.testing.assert_allclose(new.spacing, wanted)
    assert new.shape == tuple(max(1, round(n * s / w)) for n, s, w in zip(volume.shape, spacing, wanted, strict=True))
    sigma = [max(0, (w / s - 1) / 2) for s, w in zip(spacing, wanted, strict=True)]
    smoothed = gaussian_filter(volume.voxels.astype(float), sigma, mode="nearest")
    points = np.stack(np.indices(new.shape)[::-1], -1).reshape(-1, 3)
    x, y, z = apply_affine(np.linalg.inv(volume.affine) @ new.affine, points).T
    expected = map_coordinates(smoothed, [z, y, x], order=1, mode="nearest").reshape(new.shape)
    assert np.abs(new.voxels - expected).max() <= 0.51


def test_channels_are_resampled_alike() -> None:
    voxels = np.stack([make.smooth((9, 12, 11), seed) for seed in range(3)])
    together, _, _ = resample(volume_of(voxels, (2, 1, 1)), None, (), (1.5, 1.5, 1.5))
    for channel, alone in zip(together.voxels, voxels, strict=True):
        np.testing.assert_array_equal(channel, resample(volume_of(alone, (2, 1, 1)), None, (), (1.5,) * 3)[0].voxels)


def test_a_result_beyond_memory_is_refused() -> None:
    with pytest.raises(RejectedError, match="more than"):
        resample(volume_of(np.zeros((200, 100, 100)), (50, 5, 5)), None, (), (0.05, 0.05, 0.05))


def blob(shape: tuple[int, ...], middle: tuple[float, ...], radius: float, spacing: tuple[float, ...]) -> np.ndarray:
    away = [(g - m) * s for g, m, s in zip(np.indices(shape), middle, spacing, strict=True)]
    return np.sqrt(sum(a**2 for a in away)) < radius


@settings(max_examples=15, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    wanted=st.tuples(*[st.floats(0.5, 3)] * 3),
    middle=st.tuples(*[st.floats(0.4, 0.6)] * 3),
)
def test_masks_and_boxes_stay_on_what_they_marked(
    spacing: tuple[float, float, float], wanted: tuple[float, float, float], middle: tuple[float, float, float]
) -> None:
    shape = tuple(int(40 / s) + 8 for s in spacing)
    at = tuple(m * n for m, n in zip(middle, shape, strict=True))
    mask = blob(shape, at, 9, spacing).astype(np.uint8) * 3  # type: ignore[arg-type]
    volume = volume_of(mask * 100.0, spacing)
    box = Grid(volume.shape, volume.affine).box_around("blob", location(volume, at), 18)
    new, drawn, (moved,) = resample(volume, mask, (box,), wanted)
    assert drawn is not None and set(np.unique(drawn)) <= {0, 3}
    np.testing.assert_allclose(location(new, middle_of(moved)), location(volume, middle_of(box)), atol=1e-6)
    sizes = np.array([moved.d, moved.h, moved.w]) * new.spacing
    np.testing.assert_allclose(sizes, [18, 18, 18], rtol=1e-6)
    apart = location(new, center_of_mass(drawn)) - location(volume, center_of_mass(mask))
    assert np.abs(apart).max() < 0.5 * max(*spacing, *wanted)


# -- the body


def patient() -> np.ndarray:
    """A body with a lung in it, a table below it, noise all round."""
    voxels = -1000 + np.random.default_rng(0).normal(0, 20, (30, 80, 90))
    y, x = np.indices((80, 90))
    body = ((y - 40) / 22) ** 2 + ((x - 45) / 30) ** 2 < 1
    lung = ((y - 40) / 10) ** 2 + ((x - 35) / 9) ** 2 < 1
    voxels[4:28, body] = 40
    voxels[4:28, lung] = -850
    voxels[:, 72:74, 10:80] = 200
    return voxels


def test_the_air_around_the_body_goes_and_the_table_with_it() -> None:
    volume = volume_of(patient(), (2, 1, 1))
    new, _, _ = prepare(volume, None, (), make.settings(crop="body").volume)
    z, y, x = 0, 40 - 22 - 10, 45 - 30 - 10  # the body's edges and 10 mm
    assert abs(new.shape[0] - 30) <= 1 and abs(new.shape[1] - 64) <= 4 and abs(new.shape[2] - 80) <= 6
    corner = np.rint(apply_affine(np.linalg.inv(volume.affine) @ new.affine, (0, 0, 0)))[::-1].astype(int)
    assert np.abs(corner - (z, y, x)).max() <= 3
    part = tuple(slice(a, a + n) for a, n in zip(corner, new.shape, strict=True))
    np.testing.assert_array_equal(new.voxels, volume.voxels[part])
    assert (new.voxels == 40).sum() == (volume.voxels == 40).sum()


def test_no_annotation_is_cut_away() -> None:
    volume = volume_of(patient(), (2, 1, 1))
    mask = np.zeros(volume.shape, np.uint8)
    mask[29, 79, 89] = 5
    box = Box("tube", y=0.5, x=1.5, h=3, w=4, z=2, d=3)
    new, drawn, (moved,) = prepare(volume, mask, (box,), make.settings(crop="body").volume)
    assert drawn is not None and drawn.shape == new.shape and drawn.sum() == 5
    np.testing.assert_allclose(location(new, np.argwhere(drawn)[0]), location(volume, (29, 79, 89)), atol=1e-9)
    np.testing.assert_allclose(location(new, middle_of(moved)), location(volume, middle_of(box)), atol=1e-9)
    assert min(moved.z, moved.y, moved.x) >= 0


def test_air_alone_is_left_as_it_is() -> None:
    volume = volume_of(np.full((8, 9, 10), -1000) + np.arange(10), (2, 1, 1))
    assert prepare(volume, None, (), make.settings(crop="body").volume)[0].shape == (8, 9, 10)


# -- what is annotated


@pytest.mark.parametrize(
    ("crop", "first", "shape"),
    [
        ({"mask": 0}, (2, 3, 4), (3, 5, 6)),
        ({"mask": 3}, (0, 0, 1), (8, 11, 12)),  # the volume ends before
        ({"boxes": [4, 6, 6]}, (1, 2, 4), (4, 6, 6)),  # around the middle of voxel 3, 5, 7
        ({"boxes": [4, 6, 16]}, (1, 2, 0), (4, 6, 16)),  # moved inwards
        ({"boxes": [4, 6, 90]}, (1, 2, 0), (4, 6, 20)),
    ],
)
def test_a_block_around_mask_or_boxes(crop: dict[str, object], first: tuple[int, ...], shape: tuple[int, ...]) -> None:
    volume = volume_of(np.random.default_rng(0).integers(0, 99, (8, 14, 20)), (2, 1, 1))
    mask = np.zeros(volume.shape, np.uint8)
    mask[2:5, 3:8, 4:10] = 2
    box, far = Box("nodule", z=2.5, y=4.5, x=6.5, d=2, h=2, w=2), Box("other", z=0, y=13, x=0, d=1, h=1, w=1)
    boxes = (box,) if "boxes" in crop else (box, far)
    new, drawn, moved = prepare(volume, mask, boxes, make.settings(crop=crop).volume)
    part = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
    np.testing.assert_array_equal(new.voxels, volume.voxels[part])
    np.testing.assert_array_equal(drawn, mask[part])  # type: ignore[arg-type]
    np.testing.assert_allclose(location(new, middle_of(moved[0])), location(volume, middle_of(box)), atol=1e-9)
    assert len(moved) == 1
    for nothing in (None, np.zeros_like(mask)):
        with pytest.raises(RejectedError, match=r"no (mask|box) to crop to"):
            prepare(volume, nothing, (), make.settings(crop=crop).volume)


# -- clipping


def test_values_are_clipped_before_they_are_resampled() -> None:
    """Metal of 20,000 HU must not shine into its surroundings."""
    voxels = np.zeros((8, 16, 16))
    voxels[4, 8, 8] = 20000
    new, _, _ = prepare(
        volume_of(voxels, (1, 1, 1)), None, (), make.settings(clip=(-1000, 1000), spacing=(2, 2, 2)).volume
    )
    assert new.voxels.max() <= 1000


def test_clipping_is_in_the_values_of_the_source() -> None:
    volume = Volume(
        np.arange(0, 32000, 500, dtype=np.int16).reshape(4, 4, 4), affine_of((1, 1, 1)), 0, 32000, 0.01, -50
    )
    new, _, _ = prepare(volume, None, (), make.settings(clip=(0, 100)).volume)
    source = volume.voxels * 0.01 - 50
    np.testing.assert_allclose(new.voxels * new.scale + new.offset, np.clip(source, 0, 100), atol=0.01)
    assert (new.low * 0.01 - 50, new.high * 0.01 - 50) == (0, 100)


def test_a_volume_that_clipping_makes_flat_is_refused() -> None:
    volume = volume_of(np.random.default_rng(0).integers(-1000, -900, (8, 8, 8)), (1, 1, 1))
    with pytest.raises(RejectedError, match="equal"):
        prepare(volume, None, (), make.settings(clip=(-100, 300)).volume)


# -- boxes from other grids


def test_boxes_of_another_order_and_of_millimetres() -> None:
    """A grid stored as (back, head, left): each corner, carried by hand, and the middle in millimetres."""
    turn = np.zeros((4, 4))
    turn[1, 0], turn[2, 1], turn[0, 2], turn[3, 3] = -0.7, 0.8, -2.5, 1
    turn[:3, 3] = (5, 6, 7)
    stored = Grid((10, 20, 30), turn)  # x to the back, y to the head, z to the left
    read = stored.turned()
    assert read.shape == (20, 30, 10)
    box = Box("a", y=3, x=5, h=4, w=6, z=1, d=2)
    moved = read.box_from(box, stored)
    assert (moved.y, moved.x, moved.z) == pytest.approx((5, 1, 3))
    assert (moved.h, moved.w, moved.d) == pytest.approx((6, 2, 4))
    middle = apply_affine(turn, (5 + 3 - 0.5, 3 + 2 - 0.5, 1 + 1 - 0.5))
    ball = read.box_around("a", middle, 7)
    np.testing.assert_allclose(middle_of(ball), middle_of(moved), atol=1e-9)
    np.testing.assert_allclose((ball.d, ball.h, ball.w), (7 / 0.8, 7 / 0.7, 7 / 2.5))
