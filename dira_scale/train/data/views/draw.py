"""Draw the views of a sample: pure arithmetic on (seed, epoch, sample, view)."""

import numpy as np

from dira_scale.train.data import random
from dira_scale.train.data.geometry.crop import Geometry
from dira_scale.train.data.views.distortion import Distortion, Stream, ViewNumbers
from dira_scale.train.data.views.spec import ViewSpec


def draw(
    spec: ViewSpec,
    seed: int,
    epoch: int | np.ndarray,
    index: np.ndarray,
    occurrence: np.ndarray,
    view: int,
    *sides: np.ndarray,
    spacing: np.ndarray | None = None,
) -> tuple[Geometry, Distortion]:
    """Parameters of view number ``view`` of the samples ``index`` [b], independent of batching.

    ``epoch`` may differ by sample [b]; ``occurrence`` [b] numbers repetitions of a sample within it; ``sides`` [b], for
    each axis, are those of the stored images, in pixels: heights, widths; depths, heights, widths. ``spacing`` [b, n],
    of stored voxels in mm, has the same order; it matters to ``ViewSpec.spacing``.
    """
    assert len(sides) == spec.dimensions
    stored = np.stack(sides, 1).astype(np.int64)
    return spec.each[view].draw(ViewNumbers(seed, epoch, index, occurrence, view), stored, spacing)


def draw_partner(
    seed: int, epoch: int | np.ndarray, index: np.ndarray, occurrence: np.ndarray, view: int, others: np.ndarray
) -> np.ndarray:
    """For each of the samples ``index`` [b] one of ``others`` [b] > 0 possibilities: int64 [b], from 0."""
    u = random.uniform(seed, epoch, index, occurrence, view, 1, Stream.PARTNER)[:, 0]
    return random.integers(u, 0, others - 1)


def draw_labels(seed: int, epoch: int, index: np.ndarray, occurrence: np.ndarray, labels: int) -> np.ndarray:
    """For each of the samples ``index`` [b] and each label a number in [0, 1): float64 [b, labels]."""
    return random.uniform(seed, epoch, index, occurrence, 0, labels, Stream.LABELS)
