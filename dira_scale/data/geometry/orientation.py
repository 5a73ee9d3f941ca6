"""Mirrorings and quarter turns of square images and volumes: the transformations T that PCRL's targets go through.

Zhou et al., ICCV 2021, sec. 3.2. They are exact: no pixel is interpolated.
"""

import torch
from torch import Tensor

from dira_scale.data.batch import per_sample

INDICATOR = {2: 6, 3: 7}  # entries of ``indicator``, by dimensions


def reorient(x: Tensor, orientation: Tensor) -> Tensor:
    """``x`` [b, C, S, S] or [b, C, D, S, S], each sample mirrored along its axes, then turned anticlockwise in the
    plane of the last two.

    Args:
        orientation: uint8 [b, n + 1]: for each axis whether to mirror along it (0 or 1); quarter turns (0 to 3).
    """
    *mirrorings, quarters = (per_sample(value, x) for value in orientation.unbind(1))
    for axis, mirroring in enumerate(mirrorings, -len(mirrorings)):
        x = torch.where(mirroring == 1, x.flip(axis), x)
    x = torch.where(quarters >= 2, x.flip(-2, -1), x)
    return torch.where(quarters % 2 == 1, x.rot90(1, (-2, -1)), x)


def indicator(orientation: Tensor) -> Tensor:
    """vec(T): the mirrorings and the number of quarter turns, one-hot: uint8 [b, n + 1] -> float32 [b, n + 5].

    As PCRL's networks have them: of images mirrorings along y, x; of volumes, whose axes are x, y, z there, along
    these, and turns from x to y, which are the other way round.
    """
    mirrorings, quarters = orientation[:, :-1], orientation[:, -1:]
    if mirrorings.shape[1] == 3:
        mirrorings, quarters = mirrorings.flip(1), (4 - quarters) % 4
    turns = quarters == torch.arange(4, device=orientation.device)
    return torch.cat([mirrorings, turns], dim=1).float()
