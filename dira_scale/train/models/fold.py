"""Fold the addition or activation after a BatchNorm into it, so that a GPU may compute all in one pass.

Names and values of all parameters stay, and so do results: a layer applies the folded operations after normalising.
"""

from itertools import pairwise
from typing import Any, ClassVar

from timm.models import FeatureListNet
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from dira_scale.train.models.grouped_norm import GroupedBatchNorm


def fold(module: nn.Module) -> None:
    """Let BatchNorm layers do the activation right after them, and in timm's ResNets the addition before it.

    A hook on such a layer then sees what is activated.
    """
    for parent in module.modules():
        ours = BLOCKS.get(type(parent))
        # A residual block where only an addition follows the last norm, which is a BatchNorm.
        plain = ours and parent.se is None and parent.drop_path is None and isinstance(parent.drop_block, nn.Identity)
        if ours and plain and isinstance(getattr(parent, ours.folded[-1][0]), GroupedBatchNorm):
            for norm, act in ours.folded:
                _fold(parent, norm, act)
            parent.__class__ = ours  # with timm's layers, as they are
        elif type(parent).forward in (nn.Sequential.forward, FeatureListNet.forward):
            returned = getattr(parent, "return_layers", ())
            for norm, act in pairwise(name for name, _ in parent.named_children()):
                if norm not in returned:
                    _fold(parent, norm, act)


def _fold(parent: nn.Module, norm: str, act: str) -> None:
    layer, activation = getattr(parent, norm), getattr(parent, act)
    free = isinstance(layer, GroupedBatchNorm) and isinstance(layer.act, nn.Identity)
    if free and isinstance(activation, nn.ReLU | nn.LeakyReLU):
        layer.act = activation
        setattr(parent, act, nn.Identity())


class FoldedBasicBlock(BasicBlock):
    """[b, C, H, W] -> [b, K, H / stride, W / stride]."""

    folded: ClassVar = (("bn1", "act1"), ("bn2", "act2"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.aa(self.act1(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act2(self.bn2(y, shortcut))


class FoldedBottleneck(Bottleneck):
    """[b, C, H, W] -> [b, K, H / stride, W / stride]."""

    folded: ClassVar = (("bn1", "act1"), ("bn2", "act2"), ("bn3", "act3"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.aa(self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act3(self.bn3(self.conv3(y), shortcut))


BLOCKS: dict[type[Any], Any] = {BasicBlock: FoldedBasicBlock, Bottleneck: FoldedBottleneck}
