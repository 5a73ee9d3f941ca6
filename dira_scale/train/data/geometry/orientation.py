"""Mirrorings and quarter turns of square images and volumes: the transformations T that PCRL's targets go through (Zhou
et al., ICCV 2021, sec. 3.2), and the turns that rotation prediction tells apart. No pixel is interpolated.
"""

from itertools import combinations

import torch
from torch import Tensor

from dira_scale.train.data.batch import per_sample

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


def quarter_turns(dimensions: int) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Return the quarters and the plane of each turn: none, then 1, 2 and 3 quarters in the plane of each two axes.

    Of images 4 (Gidaris et al., ICLR 2018), of volumes 10 (Taleb et al., NeurIPS 2020). Axes are counted from the last.
    """
    planes = [*combinations(range(-dimensions, 0), 2)]
    return (0, planes[-1]), *((quarters, plane) for plane in planes[::-1] for quarters in (1, 2, 3))


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """``x`` [b, C, *size] with equal sides, each sample turned by that number ``turn`` [b] of ``quarter_turns``."""
    number, result = per_sample(turn, x), x
    for each, (quarters, plane) in enumerate(quarter_turns(x.dim() - 2)):
        result = torch.where(number == each, x.rot90(quarters, plane), result) if quarters else result
    return result
