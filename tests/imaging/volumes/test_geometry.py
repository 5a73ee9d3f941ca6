"""Grids that make no volume."""

import numpy as np
import pytest

from dira_scale.imaging.rejection import GeometryError
from dira_scale.imaging.volumes.geometry import Grid
from dira_scale.imaging.volumes.regrid import stack_of


def test_rows_and_columns_that_are_sheared_themselves_are_no_volume() -> None:
    """Shifting slices cannot straighten them, so nothing is pretended."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 1] = 0.1  # y leans towards x
    with pytest.raises(GeometryError, match="not rectangles"):
        stack_of(Grid((4, 5, 6), affine))


def test_a_position_that_the_manifest_cannot_hold_is_refused() -> None:
    """It stores float32, in which 1e308 is infinite."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = 1e308
    with pytest.raises(GeometryError, match="not a number"):
        Grid((4, 5, 6), affine).check()
