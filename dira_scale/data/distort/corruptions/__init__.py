"""Corruptions of views, for ``views.corruptions``, in any number of dimensions."""

from collections.abc import Mapping

from torch import Tensor

from dira_scale.data.distort.corruptions.blocks import CropBlocks, ShuffleBlocks, TurnBlocks
from dira_scale.data.distort.corruptions.choices import PatchPair, Turn
from dira_scale.data.distort.corruptions.deformation import Affine, Elastic
from dira_scale.data.distort.corruptions.intensity import Bezier, GaussianBlur, GaussianNoise
from dira_scale.data.distort.corruptions.local_shuffle import LocalShuffle
from dira_scale.data.distort.corruptions.mask import BlockMask
from dira_scale.data.distort.corruptions.one_of import OneOf
from dira_scale.data.distort.corruptions.painting import Inpaint, Outpaint, SwapPatches
from dira_scale.data.distort.corruptions.patches import BlockwiseMask, PatchMask
from dira_scale.data.views import Distortion
from dira_scale.data.views.corruption import Corruption

__all__ = [
    "Affine",
    "Bezier",
    "BlockMask",
    "BlockwiseMask",
    "CropBlocks",
    "Elastic",
    "GaussianBlur",
    "GaussianNoise",
    "Inpaint",
    "LocalShuffle",
    "OneOf",
    "Outpaint",
    "PatchMask",
    "PatchPair",
    "ShuffleBlocks",
    "SwapPatches",
    "Turn",
    "TurnBlocks",
    "corrupted",
]


def corrupted(x: Tensor, corruptions: Mapping[str, Corruption], params: Distortion) -> Tensor:
    """``x`` [b, C, *size] after all ``corruptions``, in their order."""
    for name, corruption in corruptions.items():
        x = corruption.apply(x, params.corruptions[name])
    return x
