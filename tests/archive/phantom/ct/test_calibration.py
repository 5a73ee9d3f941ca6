"""Hounsfield units of tissues where the anatomy says that they are, noise, and what a study's mask holds."""

import numpy as np
import pytest
from archive.phantom.ct.conftest import body, scan
from scipy import ndimage

from dira_scale.archive.phantom.ct import tissue
from dira_scale.archive.phantom.ct.scanner import ScanGrid, Scanner
from dira_scale.archive.phantom.ct.study import FINDING, ORGAN, Body, Study


@pytest.fixture(scope="module")
def thorax() -> Study:
    """With all its vessels."""
    return scan(body("thorax", 31), (0, 0, -130), (72, 96, 112), 4.0)


@pytest.fixture(scope="module")
def belly(abdomen: Body) -> Study:
    return scan(abdomen, (0, 0, abdomen.belly.top - 80), (56, 96, 112), 4.0)


def core(study: Study, value: int, rounds: int = 2) -> np.ndarray:
    return study.voxels[ndimage.binary_erosion(study.mask == value, iterations=rounds)]


@pytest.mark.system
def test_air_lungs_fat_and_muscle(thorax: Study) -> None:
    assert (thorax.voxels[:, :4] == -1000).all()
    lung = core(thorax, ORGAN)
    assert -900 < np.median(lung) < -780 and 15 < np.percentile(lung, 75) - np.percentile(lung, 25) < 120
    counts = np.bincount(thorax.voxels.ravel() + 1024, minlength=4096)
    smooth = ndimage.uniform_filter1d(counts.astype(float), 9)
    fat, muscle = (low + np.argmax(smooth[low + 1024 : high + 1024]) for low, high in ((-150, -40), (0, 90)))
    assert fat == pytest.approx(tissue.FAT, abs=12) and muscle == pytest.approx(tissue.MUSCLE, abs=12)


@pytest.mark.system
def test_masks_lie_in_their_organs(thorax: Study, belly: Study) -> None:
    for study, (low, high) in ((thorax, (1.5e6, 9e6)), (belly, (0.6e6, 3e6))):  # mm3: lungs, liver
        volume = (study.mask > 0).sum() * np.prod(study.grid.spacing)
        assert low < volume < high and (study.mask == FINDING).any()
    _, count = ndimage.label(ndimage.binary_erosion(thorax.mask > 0))
    sizes = np.sort(np.bincount(ndimage.label(ndimage.binary_erosion(thorax.mask > 0))[0].ravel())[1:])
    assert count >= 2 and sizes[-2] > 0.5 * sizes[-1]  # two lungs
    left, right = (thorax.mask[..., half].sum() for half in (slice(56, None), slice(56)))
    assert left < right  # the heart takes its room from the left one
    assert (np.argwhere(belly.mask == ORGAN)[:, 2].mean() - 55.5) * 4 < -30  # the liver is on the right


def test_the_noise_has_the_scanners_strength_and_grain() -> None:
    grid, neighbours = ScanGrid.around((0, 0, 0), (2, 256, 256), (1.0, 0.7, 0.7)), []
    for scanner in (Scanner("SOFT", 1.2, 12.0, 0.6), Scanner("SHARP", 0.9, 40.0, 0.3)):
        first, second = (scanner.noise(grid, 3, number) for number in range(2))
        assert first.std() == pytest.approx(scanner.sigma, rel=0.01)
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
        neighbours.append(np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1])
    assert neighbours[0] > 0.25 > neighbours[1]
