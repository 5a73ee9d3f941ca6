"""Mirrorings and quarter turns of square images: the transformations T that PCRL's targets go through.

Zhou et al., ICCV 2021, sec. 3.2. They are exact: no pixel is interpolated.
"""

import torch
from torch import Tensor

from dira_scale.data.batch import per_sample

INDICATOR = 6  # entries of ``indicator``


def reorient(x: Tensor, orientation: Tensor) -> Tensor:
    """``x`` [b, C, S, S], each sample mirrored top to bottom and left to right, then turned anticlockwise.

    Args:
        orientation: uint8 [b, 3]: whether to mirror top to bottom, left to right (0 or 1); quarter turns (0 to 3).
    """
    vertical, horizontal, quarters = (per_sample(value, x) for value in orientation.unbind(1))
    x = torch.where(vertical == 1, x.flip(-2), x)
    x = torch.where(horizontal == 1, x.flip(-1), x)
    x = torch.where(quarters >= 2, x.flip(-2, -1), x)
    return torch.where(quarters % 2 == 1, x.rot90(1, (-2, -1)), x)


def indicator(orientation: Tensor) -> Tensor:
    """vec(T): the two mirrorings and the number of quarter turns, one-hot: uint8 [b, 3] -> float32 [b, 6]."""
    turns = orientation[:, 2:] == torch.arange(4, device=orientation.device)
    return torch.cat([orientation[:, :2], turns], dim=1).float()
