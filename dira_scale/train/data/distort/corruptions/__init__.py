"""Corruptions of views, for ``views.corruptions``, in any number of dimensions; and channels that are 0."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort.corruptions.blocks import CropBlocks, ShuffleBlocks, TurnBlocks
from dira_scale.train.data.distort.corruptions.choices import PatchPair, Turn
from dira_scale.train.data.distort.corruptions.deformation import Affine, Elastic
from dira_scale.train.data.distort.corruptions.draws import hashed, unit
from dira_scale.train.data.distort.corruptions.intensity import Bezier, GaussianBlur, GaussianNoise
from dira_scale.train.data.distort.corruptions.local_shuffle import LocalShuffle
from dira_scale.train.data.distort.corruptions.mask import BlockMask
from dira_scale.train.data.distort.corruptions.one_of import OneOf
from dira_scale.train.data.distort.corruptions.painting import Inpaint, Outpaint, SwapPatches
from dira_scale.train.data.distort.corruptions.patches import BlockwiseMask, PatchMask
from dira_scale.train.data.views import CHANNEL_DROPOUT, Distortion
from dira_scale.train.data.views.corruption import Corruption

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
    "without_channels",
]


def corrupted(x: Tensor, corruptions: Mapping[str, Corruption], params: Distortion) -> Tensor:
    """``x`` [b, C, *size] after all ``corruptions``, in their order."""
    for name, corruption in corruptions.items():
        x = corruption.apply(x, params.corruptions[name])
    return x


def without_channels(x: Tensor, params: Distortion, p: float, lacking: Tensor | None) -> Tensor:
    """``x`` [b, C, *size], whose ``lacking`` channels (bool [b, C]) are 0; of the others each is with probability
    ``p``, but one stays.

    By the sample's key alone, however samples are batched. It comes last: noise and curves would show in them.
    """
    gone = lacking
    if p:
        number = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)
        drawn = unit(hashed(params.corruptions[CHANNEL_DROPOUT]["key"][:, None], number))
        drawn = drawn if lacking is None else drawn.masked_fill(lacking, -1.0)
        gone = (drawn < p) & (drawn < drawn.amax(1, keepdim=True))
    return x if gone is None else x.masked_fill(per_sample(gone, x), 0.0)
