"""Draw the views of a sample: pure arithmetic on (seed, epoch, sample, view)."""

import numpy as np

from dira_scale.train.data.geometry.crop import Geometry
from dira_scale.train.data.views.distortion import Distortion, ViewNumbers
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
    around: np.ndarray | None = None,
) -> tuple[Geometry, Distortion]:
    """Parameters of view number ``view`` of the samples ``index`` [b], independent of batching.

    ``epoch`` may differ by sample [b]; ``occurrence`` [b] numbers repetitions of a sample within it; ``sides`` [b], for
    each axis, are those of the stored images, in pixels: heights, widths; depths, heights, widths. ``spacing`` [b, n],
    of stored voxels in mm, has the same order; it matters to ``ViewSpec.spacing``.
    ``around`` [b, n] are voxels of the foreground, in pixels likewise; it matters to ``ViewSpec.foreground``.
    """
    assert len(sides) == spec.dimensions
    stored = np.stack(sides, 1).astype(np.int64)
    return spec.each[view].draw(
        ViewNumbers(seed, epoch, index, occurrence, spec.drawn_as[view]), stored, spacing, around
    )
