"""Brightness, contrast and gamma of whole batches, in any number of dimensions."""

import torch
from torch import Tensor

from dira_scale.data.batch import per_sample
from dira_scale.data.views import Distortion


def jitter(x: Tensor, params: Distortion) -> Tensor:
    """``x`` [b, C, *size] in [0, 1].

    Each operation is a factor and an offset; the second one's offset depends on the first one's result.
    """
    brightness, contrast, contrast_first = (
        per_sample(value, x) for value in (params.brightness, params.contrast, params.contrast_first)
    )
    for is_contrast in (contrast_first, ~contrast_first):
        mean = x.mean(tuple(range(1, x.dim())), keepdim=True)
        factor = torch.where(is_contrast, contrast, brightness)
        x = (x * factor + torch.where(is_contrast, (1 - contrast) * mean, 0)).clamp(0, 1)
    return x


def tone(x: Tensor, params: Distortion) -> Tensor:
    """``x`` [b, C, *size] in [0, 1]: times a factor, plus a number, clipped, to a power."""
    factor, added, power = (per_sample(value, x) for value in params.tone.unbind(1))
    return (x * factor + added).clamp(0, 1) ** power
