"""The distortion of views, applied to the loader's crops on the training device."""

from dira_scale.data.distort.plane import BatchedDistort, Distort
from dira_scale.data.distort.volume import DistortVolumes
from dira_scale.data.views import ViewSpec

__all__ = ["BatchedDistort", "Distort", "DistortVolumes", "build"]


def build(views: ViewSpec, batched: bool = False) -> Distort | DistortVolumes:
    """The module for these views; ``batched``: all samples at once also on a CPU."""
    if views.dimensions == 3:
        return DistortVolumes()
    return BatchedDistort(views) if batched else Distort(views)
