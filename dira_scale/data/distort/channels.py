"""Channels of views that are 0: the image lacks them, or channel dropout takes them away, as if it did."""

import torch
from torch import Tensor

from dira_scale.data.batch import per_sample
from dira_scale.data.distort.corruptions.draws import hashed, unit
from dira_scale.data.views import CHANNEL_DROPOUT, Distortion


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
