"""Corruptions of views, for ``views.corruptions``: one file each, in any number of dimensions."""

from collections.abc import Mapping

from torch import Tensor

from dira_scale.data.distort.corruptions.mask import BlockMask
from dira_scale.data.views import Distortion
from dira_scale.data.views.corruption import Corruption

__all__ = ["BlockMask", "corrupted"]


def corrupted(x: Tensor, corruptions: Mapping[str, Corruption], params: Distortion) -> Tensor:
    """``x`` [b, C, *size] after all ``corruptions``, in their order."""
    for name, corruption in corruptions.items():
        x = corruption.apply(x, params.corruptions[name])
    return x
