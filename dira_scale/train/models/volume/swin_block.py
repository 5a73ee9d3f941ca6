"""Blocks of MONAI's Swin UNETR: the residual one's norms do what follows them, and attention in small windows is that
of MONAI's axes; needs MONAI."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import UnetResBlock
from monai.networks.nets.swin_unetr import SwinTransformerBlock, get_window_size
from torch import Tensor, nn

from dira_scale.train.models.norm_act import InstanceNormAct, slope_of


class ResidualBlock(UnetResBlock):
    """[b, C, D, H, W] -> [b, K, D, H, W], by two convolutions beside a shortcut."""

    def forward(self, inp: Tensor) -> Tensor:
        y = self.conv2(self.norm1(self.conv1(inp)))
        shortcut = self.norm3(self.conv3(inp)) if self.downsample else inp
        return self.norm2(y, shortcut)


class AttentionBlock(SwinTransformerBlock):
    """Attention in windows of volumes [z, y, x] as MONAI computes it of [x, y, z] with the same weights.

    On a map smaller than a window MONAI takes the relative positions of a whole window's first n voxels, which are no
    smaller window, so another order of axes takes others. Here, voxels get the places that they have in MONAI's order.
    """

    def forward_part1(self, x: Tensor, mask_matrix: Tensor | None) -> Tensor:
        window, _ = get_window_size(x.shape[1:4], self.window_size, self.shift_size)
        attention: Any = self.attn
        index: Tensor = attention.relative_position_index
        if tuple(window) == tuple(self.window_size):
            return super().forward_part1(x, mask_matrix)
        places = _places(window, self.window_size, index.device)
        vars(attention)["relative_position_index"] = index[places][:, places]  # found before the buffer of this name
        try:
            attended = super().forward_part1(x, mask_matrix)
        finally:
            del vars(attention)["relative_position_index"]
        return attended


def _places(window: Sequence[int], full: Sequence[int], device: torch.device) -> Tensor:
    """Numbers, within a ``full`` window [z, y, x], of the voxels of a smaller ``window`` [z, y, x]: those that they
    would have if both were [x, y, z]."""
    z, y, x = torch.meshgrid(*(torch.arange(side, device=device) for side in window), indexing="ij")
    number = ((x * window[1] + y) * window[0] + z).flatten()
    x, y, z = number // (full[1] * full[0]), number // full[0] % full[1], number % full[0]
    return (z * full[1] + y) * full[2] + x


def settle(module: Any) -> Any:
    """Put ours in the place of MONAI's within ``module``; its norms have no parameters. Returns the module."""
    for block in module.modules():
        if type(block) is UnetResBlock:
            slope = slope_of(block.lrelu)
            assert slope is not None
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.InstanceNorm3d):
                    norm = InstanceNormAct(layer.num_features, 1.0 if name == "norm3" else slope, affine=False)
                    setattr(block, name, norm)
            block.__class__ = ResidualBlock
    return module
