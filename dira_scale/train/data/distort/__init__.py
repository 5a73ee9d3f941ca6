"""The distortion of views, applied to the loader's crops on the training device."""

from dira_scale.train.data.distort.plane import BatchedDistort, Distort
from dira_scale.train.data.distort.volume import DistortVolumes
from dira_scale.train.data.views import Views
from dira_scale.train.data.views.settings import PlaneViewSettings

__all__ = ["BatchedDistort", "Distort", "DistortVolumes", "build", "build_batched"]


def build(views: Views, images: type[Distort] = Distort) -> Distort | DistortVolumes:
    """The module for these views, which are of one size: one of ``ViewSpec.entries``."""
    if isinstance(views, PlaneViewSettings) and views.dimensions == 2:
        return images(views)
    return DistortVolumes(views)


def build_batched(views: Views) -> Distort | DistortVolumes:
    """Build the module as :func:`build` does, but one that distorts all samples at once also on a CPU."""
    return build(views, BatchedDistort)
