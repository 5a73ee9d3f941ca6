"""A linear classifier of every pixel's features, over any encoder, in 2D and 3D.

Over a frozen encoder it is the dense linear probe of DINOv2 (Oquab et al., TMLR 2024, sec. 7.4) and DINOv3, here of all
levels of the pyramid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dira_scale.train.models.network import CONVOLUTIONS, Encoder, Network
from dira_scale.train.models.upsample import unrounded


class LinearHead(nn.Module):
    """A pyramid -> logits [b, classes, *size]: all levels with channels but the image itself, each resized linearly to
    the image's size, concatenated, and one convolution of kernel 1 over them.

    Both steps are linear, so the second comes first: a level's part of the convolution is computed at the level's own
    size, and its few classes are resized instead of its hundreds of channels. Weights are drawn from N(0, 0.01), the
    bias is 0 (as a classifier's).

    Args:
        channels: the pyramid's, the image's first.
    """

    def __init__(self, channels: Sequence[int], classes: int, dimensions: int) -> None:
        super().__init__()
        counts = [count for count in channels[1:] if count]
        self.levels = nn.ModuleList(
            CONVOLUTIONS[dimensions](count, classes, kernel_size=1, bias=not i) for i, count in enumerate(counts)
        )
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.01) if parameter.dim() > 1 else nn.init.zeros_(parameter)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        image, *levels = pyramid
        maps = [level for level in levels if level.shape[1]]
        logits = [resized(part(level), image.shape[2:]) for part, level in zip(self.levels, maps, strict=True)]
        return torch.stack(logits).sum(0)


class LinearNetwork(Network):
    """[b, 1 or C, *size] -> logits [b, classes, *size], linear in the encoder's maps."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, nn.Identity()  # the whole pyramid
        self.head = LinearHead(encoder.channels, classes, encoder.dimensions)


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """[b, K, *sides] -> [b, K, *size], linear along each axis, at least in fp32: torch's ``interpolate`` with
    ``align_corners=False``. By matrix products: torch's own adds gradients in any order on a GPU."""
    with unrounded(maps):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        for axis, (before, now) in enumerate(zip(maps.shape[2:], size, strict=True), start=2):
            if before != now:  # beyond the outer pixels' centres: their values
                i, positions = (torch.arange(n, device=maps.device, dtype=maps.dtype) for n in (now, before))
                centres = ((i + 0.5) * (before / now) - 0.5).clamp(0, before - 1)
                weights = (1 - (centres[:, None] - positions).abs()).clamp(min=0)  # [now, before]
                maps = (maps.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return maps
