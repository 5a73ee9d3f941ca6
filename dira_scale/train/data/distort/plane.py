"""The distortion of images.

Parameters come from ``views.draw``; nothing is drawn here. On a CPU one sample after another, each with its own
operations only. On a GPU all samples together, without a loop or device synchronisation: a rectangle is the outer
product of a row and a column indicator, so one batched product paints all of them.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort import image as distort_image
from dira_scale.train.data.distort.colour import RGB, luma, recoloured
from dira_scale.train.data.distort.corruptions import corrupted, without_channels
from dira_scale.train.data.distort.warp import Warping, ieee_products
from dira_scale.train.data.labels import IGNORE
from dira_scale.train.data.views import INVERSE_CUTOUT, Distortion
from dira_scale.train.data.views.settings import PlaneViewSettings

_REACH = 3.0  # the blur's kernel ends at this many standard deviations of the widest blur


class Distort(nn.Module):
    """Rotation, warp, tone, brightness and contrast (of images in colour saturation, hue and grey), then blur, then
    (``corrupt``) cutout, inverse cutout or patch shuffling, then the views' other corruptions.

    Brightness multiplies; contrast multiplies the distance from the image's mean; each is clipped to [0, 1] right away
    (torchvision's formulas, for colours in ``colour``). The blur is a Gaussian with
    mirrored edges (edge pixels not repeated). Both patches of a swap are read from the image before all swaps; later
    writes overwrite earlier ones. Flips are geometry and already applied by the loader.

    Shapes: x [b, C, S, S] in [0, 1] -> the same, float32, in x's memory format. ``lacking``: of the batch.
    """

    blur_taps: Tensor

    def __init__(self, views: PlaneViewSettings):
        super().__init__()
        size = views.sides[0]
        reach = math.ceil(_REACH * views.blur.sigma[1] * views.blur_scale)
        self.corruptions, self.channel_dropout = views.corruptions, views.channel_dropout
        self.rotates, self.tones, self.colours = views.rotation > 0, views.tone.p > 0, views.coloured
        self.warp = Warping(views) if views.warp.p > 0 else None
        self.register_buffer("blur_taps", _mirrored_shifts(size, min(reach, size - 1)), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, params: Distortion, corrupt: bool = True, lacking: Tensor | None = None) -> Tensor:
        with ieee_products(x.device):
            channels_last = x.is_contiguous(memory_format=torch.channels_last)
            x = self.turned(x, params)
            x = tone(x.float(), params) if self.tones else x
            distort = self.one_by_one if x.device.type == "cpu" else self.at_once
            if self.colours and x.shape[1] == RGB:
                x, plain = recoloured(x.float(), params), torch.ones_like(params.brightness)
                params = replace(params, brightness=plain, contrast=plain)
            x = distort(x.float(), params, corrupt)
            x = corrupted(x, self.corruptions, params) if corrupt else x
            x = without_channels(x, params, self.channel_dropout, lacking)
            return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def turned(self, x: Tensor, params: Distortion) -> Tensor:
        """``x`` where the distorted view has it: rotated and warped, if views are."""
        x = rotate(x, params.rotation) if self.rotates else x
        return self.warp(x, params.warp) if self.warp else x

    def turned_mask(self, mask: Tensor, params: Distortion) -> Tensor:
        """A view's ``mask`` [b, S, S] where the distorted view has it; ``IGNORE`` where the rotation brings in what is
        beyond the image; a warp mirrors what is within. Patches that are cut out or swapped are no geometry: a mask
        keeps what lies below them."""
        mask = rotate_mask(mask, params.rotation) if self.rotates else mask
        return self.warp.mask(mask, params.warp) if self.warp else mask

    def one_by_one(self, x: Tensor, params: Distortion, corrupt: bool) -> Tensor:
        """A loop over samples, for CPUs: each stays in the cache, and costs only what its parameters ask for."""
        distorted = torch.empty_like(x, memory_format=torch.contiguous_format)
        samples = zip(
            x.detach().contiguous().numpy(),
            distorted.numpy(),
            _rows(params.brightness, params.contrast, params.contrast_first),
            self._half_kernels(params.sigma).numpy(),
            _rows(params.branch, params.boxes, params.n_boxes, params.swaps),
            strict=True,
        )
        for image, result, intensity, half_kernel, patches in samples:
            distort_image.blur(distort_image.jitter(image, *intensity), half_kernel, result)
            if corrupt:
                distort_image.corrupt(result, *patches)
        return distorted

    def at_once(self, x: Tensor, params: Distortion, corrupt: bool) -> Tensor:
        """Distort all samples at once: this reads no parameter on the host."""
        # A matrix K [S, S] per sample: K x K^T is both passes of a separable filter, including edges.
        kernel = torch.einsum("bt,tij->bij", self._half_kernels(params.sigma), self.blur_taps)[:, None]
        x = kernel @ jitter(x, params) @ kernel.mT
        if not corrupt:
            return x
        # Zero inside the boxes, or outside for inverse cutout; other branches have empty boxes.
        rows, columns = _rectangles(x.shape[-1], *params.boxes.unbind(-1))
        inside = (rows.mT @ columns > 0)[:, None]
        return _shuffle(x * (inside == per_sample(params.branch == INVERSE_CUTOUT, x)), params.swaps)

    def _half_kernels(self, sigma: Tensor) -> Tensor:
        """One half of each sample's kernel, from its centre outwards: [b, reach + 1]."""
        distance = torch.arange(len(self.blur_taps), device=sigma.device, dtype=sigma.dtype)
        weight = torch.exp(-0.5 * (distance / sigma.clamp_min(1e-3)[:, None]) ** 2)  # sigma 0: exactly (1, 0, 0, ...)
        return weight / (2 * weight.sum(1, keepdim=True) - 1)


def jitter(x: Tensor, params: Distortion) -> Tensor:
    """Brightness and contrast of ``x`` [b, C, *size] in [0, 1], in any number of dimensions.

    Each operation is a factor and an offset; the second one's offset depends on the first one's result.
    """
    brightness, contrast, contrast_first = (
        per_sample(value, x) for value in (params.brightness, params.contrast, params.contrast_first)
    )
    first = 2 if x.dim() == 5 and x.shape[1] > 1 else 1  # of a volume each channel has its own mean: 0 stays 0
    for is_contrast in (contrast_first, ~contrast_first):
        if x.dim() == 4 and x.shape[1] == RGB:
            mean = luma(x).mean((2, 3), keepdim=True)
        else:
            mean = x.mean(tuple(range(first, x.dim())), keepdim=True)
        factor = torch.where(is_contrast, contrast, brightness)
        x = (x * factor + torch.where(is_contrast, (1 - contrast) * mean, 0)).clamp(0, 1)
    return x


def tone(x: Tensor, params: Distortion) -> Tensor:
    """Gamma and the like of ``x`` [b, C, *size] in [0, 1]: times a factor, plus a number, clipped, to a power."""
    factor, added, power = (per_sample(value, x) for value in params.tone.unbind(1))
    return (x * factor + added).clamp(0, 1) ** power


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """``x`` [b, C, S, S] rotated anticlockwise about its centre by ``degrees`` [b]; bilinear, 0 beyond the edges."""
    grid = _rotation(x.shape[-1], degrees)
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotate_mask(mask: Tensor, degrees: Tensor) -> Tensor:
    """``mask`` [b, S, S] of whole numbers, rotated as its image is: the nearest pixel, ``IGNORE`` beyond the edges."""
    above = mask[:, None].float() - IGNORE  # what is beyond the edges is 0
    grid = _rotation(mask.shape[-1], degrees)
    nearest = F.grid_sample(above, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (nearest[:, 0] + IGNORE).to(mask.dtype)


def _rotation(size: int, degrees: Tensor) -> Tensor:
    """Return the source positions of a rotated image's pixels: [b, S, S, 2], x and y from -1 to 1, y downwards.

    torch's affine_grid is off by pixels under autocast: its matrix product is in 16 bits.
    """
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    centre = (2 * torch.arange(size, device=degrees.device) + 1) / size - 1
    across, down = centre[None, None, :], centre[None, :, None]
    return torch.stack([cos * across - sin * down, sin * across + cos * down], dim=-1)


def _rows(*columns: Tensor) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


class BatchedDistort(Distort):
    """Distorts all samples at once also on a CPU, as on a GPU: where parameters have no values, or as a reference."""

    one_by_one = Distort.at_once


def _mirrored_shifts(size: int, reach: int) -> Tensor:
    """[reach + 1, S, S]: matrix t sums the pixels at distance t on both sides, mirrored at the edges."""
    position = torch.arange(size)
    shifts = torch.zeros(reach + 1, size, size)
    for t in range(reach + 1):
        for source in {position - t, position + t} if t else {position}:
            mirrored = (source.abs() - (size - 1)).abs().neg() + size - 1
            shifts[t].index_put_((position, mirrored), torch.ones(()), accumulate=True)
    return shifts


def _shuffle(x: Tensor, swaps: Tensor) -> Tensor:
    """Compute for every pixel its source, then gather.

    Write k of a sample's 2 n ordered writes adds 2^k to its pixels, so the largest power in a pixel's sum is its last
    write; sums of 2 n <= 20 powers are exact in float32.
    """
    size = x.shape[-1]
    assert 2 * swaps.shape[1] <= 23
    h, w, y1, x1, y2, x2 = swaps.repeat_interleave(2, 1).long().unbind(-1)
    second = torch.arange(h.shape[1], device=x.device) % 2 == 1
    rows, columns = _rectangles(size, torch.where(second, y2, y1), torch.where(second, x2, x1), h, w)
    power = 2.0 ** torch.arange(h.shape[1], device=x.device)
    last = torch.frexp(rows.mT @ (columns * power[:, None])).exponent.flatten(1)  # 0 = no write, k + 1 = write k
    offset = ((y2 - y1) * size + x2 - x1) * torch.where(second, -1, 1)  # from the patch written to the one read
    offset = torch.cat((torch.zeros_like(offset[:, :1]), offset), 1)
    source = torch.arange(size * size, device=x.device) + offset.gather(1, last.long())
    return x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view(x.shape)


def _rectangles(size: int, y: Tensor, x: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column indicators, float32 [b, n, S] each, of n rectangles per sample; arguments are [b, n]."""
    position = torch.arange(size, device=y.device)
    rows, columns = (
        ((position >= start[..., None]) & (position < (start + extent)[..., None])).float()
        for start, extent in ((y, h), (x, w))
    )
    return rows, columns
