"""Warped images and masks: an elastic field, a distorted grid or a lens, whose parameters ``views.parts.Warp`` draws.

albumentations' ElasticTransform, GridDistortion and OpticalDistortion with their defaults: mirrored edges, bilinear
images, masks of the nearest pixel. An elastic field and its affine part are one map here, so pixels are interpolated
once. A lens is centred, where albumentations shifts the image by half a pixel.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort.corruptions.draws import shifted, signed
from dira_scale.train.data.views.parts import CELLS, COLUMNS, ELASTIC, GRID, NODES, OPTICAL, UNWARPED, scaled
from dira_scale.train.data.views.settings import PlaneViewSettings


@contextmanager
def ieee_products(device: torch.device) -> Iterator[None]:
    """Keep autocast from rounding pixels to bf16's 8 bits, and a GPU from rounding them to tf32's 11.

    A GPU would do so even where nothing is blurred or moved.
    """
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


_REACH = 4.0  # the filter of the elastic field ends at this many standard deviations (SciPy's default)


class Warping(nn.Module):
    """The warps of square views: bilinear of images, the nearest pixel of masks."""

    smoothing: Tensor

    def __init__(self, views: PlaneViewSettings) -> None:
        super().__init__()
        size = views.sides[-1]
        # A filtered field is proportional to alpha / sigma, so that it grows with the view alpha does so twice.
        self.alpha = views.warp.alpha * scaled(1, size) ** 2
        smoothing = _smoothing(size, scaled(views.warp.sigma, size))
        self.register_buffer("smoothing", torch.from_numpy(smoothing).float(), persistent=False)

    def forward(self, x: Tensor, warp: Tensor) -> Tensor:
        """``x`` [b, C, S, S], by ``Distortion.warp``; those that are not warped, bit for bit."""
        return self._sampled(x, warp, "bilinear")

    def mask(self, mask: Tensor, warp: Tensor) -> Tensor:
        """``mask`` [b, S, S] of whole numbers, where the warped image has it."""
        return self._sampled(mask[:, None], warp, "nearest")[:, 0].to(mask.dtype)

    def _sampled(self, x: Tensor, warp: Tensor, mode: str) -> Tensor:
        with ieee_products(x.device):  # in 16 bits a field would be pixels off
            x, grid = x.float(), 2 * self.sources(warp) / (x.shape[-1] - 1) - 1
            warped = F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=True)
        return torch.where(per_sample(warp[:, 0] == UNWARPED, x), x, warped)

    def sources(self, warp: Tensor) -> Tensor:
        """Return the source positions of pixels, (x, y) in pixels: float32 [b, S, S, 2]."""
        kind, noise, affine, nodes, lens = warp.float().split(COLUMNS, 1)
        size = len(self.smoothing)
        position = torch.arange(size, device=warp.device, dtype=torch.float32)
        here = torch.stack(torch.meshgrid(position, position, indexing="xy"), -1).expand(len(warp), -1, -1, -1)

        moved = here + self._field(noise)
        affine = affine.view(-1, 1, 1, 3, 2)
        elastic = moved[..., :1] * affine[..., 0, :] + moved[..., 1:] * affine[..., 1, :] + affine[..., 2, :]

        across, down = _stretched(nodes.view(-1, 2, NODES), position).unbind(1)
        grid = torch.stack([across[:, None].expand(-1, size, -1), down[:, :, None].expand(-1, -1, size)], -1)

        centred = (here - (size - 1) / 2) / size
        square = centred.square().sum(-1, keepdim=True)
        optical = centred * (1 + per_sample(lens, here) * (square + square**2)) * size + (size - 1) / 2

        sources = here
        for number, warped in ((ELASTIC, elastic), (GRID, grid), (OPTICAL, optical)):
            sources = torch.where(per_sample(kind == number, here), warped, sources)
        return sources

    def _field(self, key: Tensor) -> Tensor:
        """Smooth displacements in pixels [b, S, S, 2], of noise from -1 to 1 that ``key`` [b, 2] determines."""
        size = len(self.smoothing)
        high, low = key.long().unbind(1)
        noise = 2 * uniform((high << 24) + low, 2 * size * size) - 1
        smooth = self.smoothing @ noise.view(-1, 2, size, size) @ self.smoothing.mT
        return self.alpha * smooth.movedim(1, -1)


def uniform(key: Tensor, count: int) -> Tensor:
    """``count`` numbers in [0, 1) for each int64 ``key`` [b], by SplitMix64 as ``train.data.random.mix``: float32 [b,
    count].

    The same on every device: whole numbers only, whose products wrap.
    """
    order = torch.arange(1, count + 1, device=key.device)
    x = key[:, None] * signed(0xD1342543DE82EF95, 64) + order * signed(0x9E3779B97F4A7C15, 64)
    x = (x ^ shifted(x, 30, 64)) * signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ shifted(x, 27, 64)) * signed(0x94D049BB133111EB, 64)
    return shifted(x ^ shifted(x, 31, 64), 40, 64).float() * 2.0**-24


def _stretched(nodes: Tensor, position: Tensor) -> Tensor:
    """Return the source of each ``position`` [S]: [b, 2, S], linear within its cell from one of the ``nodes`` [b, 2,
    NODES], at the first pixel, to the next, at the last."""
    cell = len(position) // CELLS
    number = (position // cell).clamp(max=CELLS).long()
    last = torch.where(number < CELLS, cell, len(position) - CELLS * cell) - 1
    share = (position - number * cell) / last.clamp(min=1)
    start = nodes[..., number]
    return start + share * (nodes[..., number + 1] - start)


def _smoothing(size: int, sigma: float) -> np.ndarray:
    """A matrix [S, S]: the Gaussian filter along an axis, with mirrored edges whose edge pixels are repeated."""
    reach = int(_REACH * sigma + 0.5)
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    source, matrix = np.pad(np.arange(size), reach, mode="symmetric"), np.zeros((size, size))
    for t, share in enumerate(weight / weight.sum()):
        np.add.at(matrix, (np.arange(size), source[t : t + size]), share)
    return matrix
