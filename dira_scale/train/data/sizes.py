"""Check that samples fit the requested views, before any is read, with errors of one line."""

import numpy as np

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.train.data.geometry.crop import in_stored
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import PlaneViews, ViewSpec, VolumeViews

SQUARE = 0.01  # by how much a voxel's height and width may differ if views are turned, as a share
TOGETHER = 2**20  # samples that are looked at: of 10^8 at once each column would take a gigabyte


class SmallError(ArgumentError):
    """A sample is smaller than a crop of the views, which do not ``pad`` it; ``why`` is the sentence without advice."""

    def __init__(self, why: str, fitting: str) -> None:
        super().__init__("pad", False, f"true{fitting}: {why}")
        self.why = why


def require_fit(samples: Samples, views: ViewSpec) -> None:
    """Check that all samples, before any is read, are as the views need them.

    Raises, naming the first sample that is not, SmallError; ArgumentError for a voxel that is not square where views
    are turned; DatasetError for an unknown spacing where it matters, and for other dimensions.
    """
    for dataset in samples.datasets:
        dataset.require(views.dimensions, "this loader")
    step = None
    turned = any(entry.turned for entry in views.entries)
    if views.spacing is not None or turned:
        spacing = samples.spacing(np.arange(len(samples)))  # mm
        step, present = views.step(spacing), (spacing > 0).all(1)
        if views.spacing is not None and not present.all():
            raise DatasetError(
                f"{samples.name(present.argmin())} has no spacing in the manifest, nor have {(~present).sum() - 1} "
                f"others of {len(spacing)} in split '{samples.split}', and views with a spacing of {views.spacing} mm "
                "need it",
                lacks="spacing",
            )
        height, width = spacing[:, -2], spacing[:, -1]
        oblong = np.abs(height - width) > SQUARE * width
        if views.spacing is None and oblong.any():
            first = oblong.argmax()
            voxels = f"{samples.name(first)} has voxels of {height[first]:.3g} x {width[first]:.3g} mm in the plane"
            others = f"{oblong.sum()} of {len(oblong)} in split '{samples.split}' are not square"
            expected = f"millimetres, or views without turns and transpose, which would distort: {voxels}, and {others}"
            raise ArgumentError("spacing", UNSHOWN, expected)
    if not views.pad:
        for number, entry in enumerate(views.entries):
            name = f"views.crops[{number}].extents" if views.crops else "views.extents"
            _require_sides(samples, entry, step, name)


def _require_sides(samples: Samples, views: PlaneViews | VolumeViews, step: np.ndarray | None, name: str) -> None:
    """Raise SmallError for a sample that is smaller than a crop of ``views`` of one size, the argument ``name``."""
    if (least := views.least) is None:
        return
    fit, count, first = np.full(len(least), np.inf), 0, None
    for start in range(0, len(samples), TOGETHER):
        index = np.arange(start, min(start + TOGETHER, len(samples)))
        sides, steps = np.stack(samples.sides(index), 1), None if step is None else step[index]
        extents = np.broadcast_to(least, sides.shape) if steps is None else in_stored(np.array(least), steps)
        small = np.flatnonzero((sides < extents).any(1))
        # Crops that fit all are resized to the views' size.
        fit, count = np.minimum(fit, (sides if steps is None else sides / steps).min(0)), count + small.size
        if small.size and first is None:
            first = index[small[0]], sides[small[0]], extents[small[0]]
    if first is not None:
        sample, has, needs = first
        size, crop = _product(has), _product(least)
        if step is not None:
            crop += f" (of its voxels {_product(np.round(needs, 1))})"
        fit = np.floor(fit).astype(int)
        if views.turned or views.orientations:
            fit[1:] = fit[1:].min()
        fitting = ",".join(map(str, fit))
        raise SmallError(
            f"{samples.name(sample)} has {size} voxels, fewer than a crop of {crop}, as have {count} of "
            f"{len(samples)} in split '{samples.split}'",
            "" if views.fixed or fit.min() < 1 else f", or {name} [[{fitting}]], which fits all",
        )


def _product(sides: np.ndarray | tuple[int, ...]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
