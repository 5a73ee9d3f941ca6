"""Whether samples fit the views that are asked for: before anything is read, and in one line."""

import numpy as np

from dira_scale.data.geometry.crop import in_stored
from dira_scale.data.samples import Samples
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

SQUARE = 0.01  # by how much a voxel's height and width may differ if views are turned, as a share


def require_fit(samples: Samples, views: ViewSpec, remedy: str | None = None) -> None:
    """Raise UserError, naming the first sample, if the views have other dimensions, a sample is smaller than a crop, or
    its spacing is unknown or not that of squares where that matters.

    ``remedy``: what to do about small samples; None: change ``data`` or ``views``.
    """
    for dataset in samples.datasets:
        dataset.require(views.dimensions, "this loader")
    index, step = np.arange(len(samples)), None
    turned = any(entry.turns or entry.transpose for entry in views.entries)
    if views.spacing is not None or turned:
        spacing = samples.spacing(index)
        step = views.step(spacing)
        _require_spacing(samples, views, spacing)
    if not views.pad:
        for number, entry in enumerate(views.entries):
            key = f"in views.crops[{number}] extents" if views.crops else "views.extents"
            _require_sides(samples, entry, index, step, remedy, key)


def _require_sides(
    samples: Samples, views: ViewSpec, index: np.ndarray, step: np.ndarray | None, remedy: str | None, key: str
) -> None:
    """Raise UserError for a sample that is smaller than a crop of ``views`` of one size, whose sizes are ``key``."""
    if (least := views.least) is None:
        return
    sides = np.stack(samples.sides(index), 1)
    extents = np.broadcast_to(least, sides.shape) if step is None else in_stored(np.array(least), step)
    if (small := np.flatnonzero((sides < extents).any(1))).size:
        size, crop = _product(sides[small[0]]), _product(least)
        if step is not None:
            crop += f" (of its voxels {_product(np.round(extents[small[0]], 1))})"
        raise UserError(
            f"{samples.name(small[0])} has {size} voxels, fewer than a crop of {crop}, as have {small.size} of "
            f"{len(sides)} in split '{samples.split}': {remedy or _remedy(views, sides, step, key)}"
        )


def _remedy(views: ViewSpec, sides: np.ndarray, step: np.ndarray | None, key: str) -> str:
    """What to type for volumes of these ``sides`` [b, n]: crops that fit all of them are resized to the views' size."""
    fit = np.floor((sides if step is None else sides / step).min(0)).astype(int)
    if views.turns or views.transpose or views.orientations:
        fit[1:] = fit[1:].min()
    if views.fixed or fit.min() < 1:
        return "use data.pad=true"
    return f"use data.pad=true, or {key}=[[{','.join(map(str, fit))}]], which fits all"


def _require_spacing(samples: Samples, views: ViewSpec, spacing: np.ndarray) -> None:
    """Raise UserError for an unknown ``spacing`` [b, n] in mm, or voxels that a turn would distort."""
    known = np.logical_and.reduce(spacing > 0, axis=1)
    if views.spacing is not None and not known.all():
        raise UserError(
            f"{samples.name(known.argmin())} has no spacing in the manifest, nor have {(~known).sum() - 1} others of "
            f"{len(known)} in split '{samples.split}', and data.spacing={views.spacing} needs it: use "
            "data.spacing=stored, or shard again from files that have it"
        )
    height, width = spacing[:, -2], spacing[:, -1]
    oblong = np.abs(height - width) > SQUARE * width
    if views.spacing is None and oblong.any():
        first = oblong.argmax()
        raise UserError(
            f"{samples.name(first)} has voxels of {height[first]:.3g} x {width[first]:.3g} mm in the plane, and "
            f"{oblong.sum()} of {len(oblong)} in split '{samples.split}' are not square, which views.turns and "
            "views.transpose would distort: use data.spacing=MM, or set both to 0"
        )


def _product(sides: np.ndarray | tuple[int, ...]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
