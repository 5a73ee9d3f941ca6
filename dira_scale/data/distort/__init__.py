"""The distortion of views, applied to the loader's crops on the training device."""

from dira_scale.data.distort.plane import BatchedDistort, Distort
from dira_scale.data.distort.volume import DistortVolumes
from dira_scale.data.views import ViewSpec

__all__ = ["BatchedDistort", "Distort", "DistortVolumes", "build", "build_batched"]


def build(views: ViewSpec) -> Distort | DistortVolumes:
    """The module for these views, which are of one size: one of ``ViewSpec.entries``."""
    return Distort(views) if views.dimensions == 2 else DistortVolumes(views)


def build_batched(views: ViewSpec) -> Distort | DistortVolumes:
    """Build the module as :func:`build` does, but one that distorts all samples at once also on a CPU."""
    return BatchedDistort(views) if views.dimensions == 2 else DistortVolumes(views)
