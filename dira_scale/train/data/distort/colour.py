"""Images in colour: brightness, contrast, saturation and hue in each sample's own order, then grey for some.

torchvision's ColorJitter and RandomGrayscale, clipped to [0, 1] after each operation. On a CPU each sample costs what
its parameters ask for; on a GPU all are computed together, and the host reads nothing.
"""

import torch
from torch import Tensor

from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.constants import constant
from dira_scale.train.data.distort.corruptions.draws import one_by_one
from dira_scale.train.data.views import COLOUR, LUMA, Distortion
from dira_scale.train.data.views.parts import BRIGHTNESS, CONTRAST, HUE, SATURATION

RGB = len(LUMA)  # channels


def recoloured(x: Tensor, params: Distortion) -> Tensor:
    """``x`` [b, 3, S, S] in [0, 1] by ``params.corruptions["colour"]`` and its brightness and contrast; same shape."""
    colour = params.corruptions[COLOUR]
    if not one_by_one(x):
        for operation in colour["order"].unbind(1):
            grey = luma(x)
            other = torch.where(per_sample(operation == CONTRAST, x), grey.mean((2, 3), keepdim=True), grey)
            factor = torch.where(operation == CONTRAST, params.contrast, colour["saturation"])
            brightens = operation == BRIGHTNESS
            other = torch.where(per_sample(brightens, x), 0, other)
            blended = _blended(x, other, per_sample(torch.where(brightens, params.brightness, factor), x))
            x = torch.where(per_sample(operation == HUE, x), turned(x, colour["hue"]), blended)
        return torch.where(per_sample(colour["grey"], x), luma(x), x)
    result, factors = torch.empty_like(x), torch.stack((params.brightness, params.contrast, colour["saturation"]), 1)
    samples = zip(factors.tolist(), colour["order"].tolist(), colour["grey"].tolist(), strict=True)
    for i, (by_operation, order, grey) in enumerate(samples):
        image = x[i : i + 1]
        for operation in order:
            if operation == HUE:
                image = turned(image, colour["hue"][i : i + 1]) if colour["hue"][i] else image
            elif (factor := by_operation[operation]) != 1:
                other = luma(image) if operation == SATURATION else luma(image).mean() * (operation == CONTRAST)
                image = _blended(image, other, factor)
        result[i] = luma(image)[0] if grey else image[0]
    return result


def luma(x: Tensor) -> Tensor:
    """[b, 3, S, S] -> [b, 1, S, S], torchvision's grey."""
    return torch.einsum("bchw,c->bhw", x, constant(LUMA, x))[:, None]


def turned(x: Tensor, hue: Tensor) -> Tensor:
    """``x`` [b, 3, S, S] with its hue turned by ``hue`` [b], shares of the circle; value and saturation stay."""
    red, green, blue = x.unbind(1)
    value = x.amax(1)
    chroma = value - x.amin(1)
    by = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(value == blue, (red - green) / by + 4, 0)
    sixths = torch.where(value == green, (blue - red) / by + 2, sixths)
    sixths = torch.where(value == red, (green - blue) / by, sixths) + 6 * hue[:, None, None]
    k = (constant((5.0, 3.0, 1.0), x)[:, None, None] + sixths[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _blended(x: Tensor, other: Tensor | float, factor: Tensor | float) -> Tensor:
    return (x * factor + other * (1 - factor)).clamp(0, 1)
