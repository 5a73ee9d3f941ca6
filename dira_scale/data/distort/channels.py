"""Channel dropout: a view without some of its image's channels, as if the session lacked these sequences."""

import torch
from torch import Tensor

from dira_scale.data.distort.corruptions.draws import hashed, unit
from dira_scale.data.views import CHANNEL_DROPOUT, Distortion


def without_channels(x: Tensor, params: Distortion, p: float) -> Tensor:
    """``x`` [b, C, *size] in [0, 1]: each channel is 0 with probability ``p``, but one of those that are not 0 stays.

    By the sample's key alone, however samples are batched.
    """
    if not p:
        return x
    keys = params.corruptions[CHANNEL_DROPOUT]["key"]
    number = torch.arange(x.shape[1], dtype=torch.int32, device=x.device)
    drawn = unit(hashed(keys[:, None], number)).masked_fill(x.flatten(2).amax(2) == 0, -1.0)  # lacking: stays 0
    kept = (drawn >= p) | (drawn == drawn.amax(1, keepdim=True))
    return torch.where(kept.view(*kept.shape, *(1,) * (x.dim() - 2)), x, 0.0)
