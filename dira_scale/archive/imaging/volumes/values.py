"""Values of any type to a ``Volume``: int16, axial order, rectangular, with black and white points.

Integers that fit int16 are kept. CT is rounded to whole Hounsfield units; scanners have no fractions. Anything else
that is wider or finer (float MR, PET, unsigned 16 bits) is scaled linearly from its own range to 0 to 32767;
``Volume.scale`` and ``offset`` invert this.
"""

from collections.abc import Callable

import numpy as np

from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import Grid, turn
from dira_scale.archive.imaging.volumes.regrid import Stack, stack_of

INT16 = np.iinfo(np.int16)
FLAT = "all voxels are equal"


def to_volume(geometry: Grid | Stack, load: Callable[[], np.ndarray], settings: ReadSettings) -> Volume:
    """A volume of values [Z, Y, X] or [C, Z, Y, X] positioned at ``geometry``.

    Raises RejectedError; an invalid ``geometry`` is rejected before loading.
    """
    if isinstance(geometry, Grid) and geometry.check().sheared:
        geometry = stack_of(geometry)
    if isinstance(geometry, Stack) and settings.volume.irregular == "refuse":
        raise GeometryError(
            "slices that are shifted against each other (gantry tilt) or at uneven distances", decided_by="irregular"
        )
    grid = (geometry.grid if isinstance(geometry, Stack) else geometry).check()
    stored, scale, offset = to_int16(load(), settings.modality)
    if ends := settings.volume.range:
        low, high = ((value - offset) / scale for value in ends)
    else:
        low, high = percentiles(stored, (0.5, 99.5))
        low, high = (low, high) if low < high else (float(stored.min()), float(stored.max()))
    filled = 0
    if isinstance(geometry, Stack):
        stored, filled = geometry.straighten(stored), geometry.missing
    voxels, affine = turn(stored, grid.affine)
    return Volume(np.ascontiguousarray(voxels), affine, low, high, scale, offset, filled)


def to_int16(values: np.ndarray, modality: str) -> tuple[np.ndarray, float, float]:
    """int16 of the same shape, scale and offset (value = scale * stored + offset). Raises RejectedError."""
    if values.dtype.kind not in "biuf":
        raise RejectedError("values that are colours, complex or not numbers")
    low, high = values.min(), values.max()  # NaN and infinity propagate into these
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RejectedError("values that are NaN or infinite")
    if low == high:
        raise RejectedError(FLAT)
    fits_int16 = INT16.min <= low and high <= INT16.max
    if values.dtype.kind != "f":
        if fits_int16:
            return values.astype(np.int16, copy=False), 1.0, 0.0
        if modality == "CT":
            return np.clip(values, INT16.min, INT16.max).astype(np.int16), 1.0, 0.0
    else:
        planes = values.reshape(-1, *values.shape[-2:])
        if modality == "CT" or (fits_int16 and all((plane == np.rint(plane)).all() for plane in planes)):
            return _rounded(values), 1.0, 0.0
    scale = (float(high) - float(low)) / INT16.max
    if not 0 < scale < np.inf:
        raise RejectedError("values that are too large or too close together to tell apart")
    return _rounded(values, float(low), scale), scale, float(low)


def may_be_hounsfield(volume: Volume) -> bool:
    """Return whether some value is below 0 and they span 100 or more, as those of CT's air, fat and tissue do."""
    low, high = (volume.scale * int(value) + volume.offset for value in (volume.voxels.min(), volume.voxels.max()))
    return low < 0 and high - low >= 100


def rescale(values: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """slope * values + offset; exact integers if all three are integers and fit 32 bits."""
    if (slope, offset) == (1, 0):
        return values
    small = values.dtype.kind in "biu" and values.dtype.itemsize <= 2
    if small and slope == round(slope) and offset == round(offset) and abs(slope) < 2**14 and abs(offset) < 2**30:
        return values.astype(np.int32) * np.int32(slope) + np.int32(offset)
    scaled: np.ndarray = np.multiply(values, slope, dtype=np.float32 if small else np.float64)
    scaled += offset
    return scaled


def percentiles(stored: np.ndarray, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles of an int16 array from its histogram."""
    counts = np.zeros(2**16, np.int64)
    for plane in stored.reshape(-1, *stored.shape[-2:]):  # bincount converts its input to int64
        counts += np.bincount(plane.ravel().view(np.uint16), minlength=2**16)
    reached = np.cumsum(np.roll(counts, 2**15))  # as uint16, negative values come last
    return tuple(float(np.searchsorted(reached, stored.size * share / 100) + INT16.min) for share in shares)


def _rounded(values: np.ndarray, offset: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Rounded to int16 plane by plane, so that no third array of this size is in memory."""
    stored = np.empty(values.shape, np.int16)
    for plane, out in zip(values.reshape(-1, *values.shape[-2:]), stored.reshape(-1, *values.shape[-2:]), strict=True):
        scaled = plane if (offset, scale) == (0, 1) else (plane.astype(np.float64) - offset) / scale
        out[...] = np.clip(np.rint(scaled), INT16.min, INT16.max)
    return stored
