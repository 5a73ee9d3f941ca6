"""Projection and display: Beer-Lambert's law, scatter, noise statistics, monotony."""

import numpy as np
import pytest

from dira_scale.phantom.cxr import projection
from dira_scale.phantom.cxr.projection import BONE, FAT, LUNG, SOFT, Exposure


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
