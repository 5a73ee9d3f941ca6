"""Closed-form thickness against brute force, points counted along every ray; from thickness to grey by the physics."""

import numpy as np
import pytest

from dira_scale.archive.phantom.cxr import projection
from dira_scale.archive.phantom.cxr.primitives import TubeLayer, ellipsoid
from dira_scale.archive.phantom.cxr.projection import BONE, FAT, LUNG, SOFT, Exposure
from dira_scale.archive.phantom.cxr.view import View

FAR = 1e7  # mm to the source: parallel rays, so that the brute force stays simple


def march(view: View, inside, depth: float = 60.0, step: float = 0.25) -> np.ndarray:
    """Thickness by asking `inside(points)` every `step` mm along every pixel's ray."""
    middle = (view.size - 1) / 2
    row, column = np.mgrid[: view.size, : view.size]
    camera = np.stack([(column - middle) * view.spacing, (row - middle) * view.spacing], -1)
    total = np.zeros((view.size, view.size))
    for z in np.arange(-depth, depth, step) + step / 2:
        points = np.concatenate([camera, np.full((*camera.shape[:2], 1), z)], -1)
        total += step * inside(points @ view.rotation)  # the rotation's inverse, row vectors
    return total


@pytest.mark.parametrize("angle", [0.0, 25.0])
def test_ellipsoid_is_as_thick_as_a_marched_one(angle: float) -> None:
    view = View(48, field=96, yaw=0.3, pitch=-0.2, roll=0.15, shift=(0, 0), source=FAR)
    centre, axes = np.array([6.0, -8.0, 4.0]), np.array([25.0, 14.0, 18.0])
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])

    def inside(points: np.ndarray) -> np.ndarray:
        return np.square(((points - centre) @ turn) / axes).sum(-1) <= 1

    got, expected = ellipsoid(view, tuple(centre), tuple(axes), angle), march(view, inside)
    assert expected.max() > 25
    assert np.abs(got - expected).max() < 1.6  # the steepest edge falls within a pixel
    assert abs(got.sum() / expected.sum() - 1) < 0.003


@pytest.mark.parametrize("tilt", [0.0, 0.6])
def test_tube_is_as_thick_as_a_marched_cylinder(tilt: float) -> None:
    view = View(64, field=96, yaw=tilt, shift=(0, 0), source=FAR)
    ends, radius = np.array([[-70.0, -10, 0], [70.0, 14, 0]]), 8.0
    axis = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])

    def inside(points: np.ndarray) -> np.ndarray:
        offset = points - ends[0]
        return np.square(offset - (offset @ axis)[..., None] * axis).sum(-1) <= radius**2

    layer = TubeLayer(view)
    layer.add(np.linspace(*ends, 20)[None], np.full((1, 20), radius))
    got, expected = layer.thickness()[:, 16:48], march(view, inside)[:, 16:48]
    assert expected.max() > 15
    assert np.abs(got - expected).mean() < 0.35
    assert abs(got.sum() / expected.sum() - 1) < 0.06


def test_grid_inverts_the_projection() -> None:
    view = View(64, roll=0.1, shift=(5.0, 120.0))
    x, y = view.grid
    row, column, _ = view.project(np.stack([x, y, np.zeros_like(x)], -1))
    np.testing.assert_allclose(row, np.mgrid[:64, :64][0], atol=1e-3)
    np.testing.assert_allclose(column, np.mgrid[:64, :64][1], atol=1e-3)


def test_coefficients_are_those_of_60_kev() -> None:
    # per cm; NISTIR 5632, table 4, at 60 keV
    assert [round(10 * c, 3) for c in (SOFT, FAT, BONE)] == [0.217, 0.188, 0.604]
    assert LUNG < 0.3 * SOFT


@pytest.mark.parametrize("length", [0.5, 2.0, 4.0])
def test_primary_obeys_beer_lambert(length: float) -> None:
    line = np.full((64, 64), length, np.float32)
    light = projection.detect(line, 0.8, Exposure(photons=1e12, scatter=0.0), np.random.default_rng(0))
    np.testing.assert_allclose(light, np.exp(-length), rtol=1e-3)


def test_scatter_fills_the_shadow_of_a_block() -> None:
    line = np.zeros((256, 256), np.float32)
    line[112:144, 112:144] = 20.0
    dark, bright = (
        projection.detect(line, 1.5, Exposure(photons=1e12, scatter=s), np.random.default_rng(0)) for s in (0.0, 0.6)
    )
    assert dark[128, 128] < 1e-3 < 0.1 < bright[128, 128]


def test_noise_is_that_of_counted_photons() -> None:
    line, photons = np.full((256, 256), 3.0, np.float32), 5e4
    exposure = Exposure(photons=photons, scatter=0.0, blur=1e-3)
    light = projection.detect(line, 0.8, exposure, np.random.default_rng(0))
    counts = light * photons
    assert counts.var() == pytest.approx(counts.mean(), rel=0.03)  # Poisson: variance = mean


def test_denser_is_brighter_and_fills_12_bits() -> None:
    light = np.exp(-np.tile(np.linspace(1.5, 5.5, 256, dtype=np.float32), (256, 1)))
    shown = projection.display(light, 1.6, Exposure(detail=0.0, equalise=0.0)).astype(int)
    assert (np.diff(shown[128]) >= 0).all()
    assert shown.max() <= 4095 and np.ptp(shown) > 2500
