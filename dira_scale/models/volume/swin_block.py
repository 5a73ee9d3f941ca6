"""The residual block of MONAI's Swin UNETR, whose norms do what follows them; needs MONAI."""

from typing import Any

from monai.networks.blocks import UnetResBlock
from torch import Tensor, nn

from dira_scale.models.norm_act import InstanceNormAct, slope_of


class ResidualBlock(UnetResBlock):
    """[b, C, D, H, W] -> [b, K, D, H, W], by two convolutions beside a shortcut."""

    def forward(self, inp: Tensor) -> Tensor:
        y = self.conv2(self.norm1(self.conv1(inp)))
        shortcut = self.norm3(self.conv3(inp)) if self.downsample else inp
        result: Tensor = self.norm2(y, shortcut)
        return result


def settle(module: Any) -> Any:
    """Put ours in the place of MONAI's within ``module``; its norms have no parameters. Returns the module."""
    for block in module.modules():
        if type(block) is UnetResBlock:
            slope = slope_of(block.lrelu)
            assert slope is not None
            for name, layer in list(block.named_children()):
                if isinstance(layer, nn.InstanceNorm3d):
                    own = InstanceNormAct(layer.num_features, 1.0 if name == "norm3" else slope, affine=False)
                    setattr(block, name, own)
            block.__class__ = ResidualBlock
    return module
