"""PCRL's transformation-conditioned attention (Zhou et al., ICCV 2021, sec. 3.2).

It tells the decoder which transformation T the target went through, by weighting the channels of the encoder's last
feature map.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from dira_scale.train.data.geometry.orientation import INDICATOR
from dira_scale.train.models.heads import global_average
from dira_scale.train.models.network import CONVOLUTIONS

HIDDEN = 256  # width between indicator and channels (released code; not in the paper)


class ChannelAttention(nn.Module):
    """F · sigmoid(FC(ReLU(FC(vec T)))) per channel: the released code's, "more stable" by its README.

    Shapes: features [b, C, *size], indicator float32 [b, ``INDICATOR``] -> [b, C, *size].
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.embedding = _embedding(channels, dimensions)

    def forward(self, features: Tensor, indicator: Tensor) -> Tensor:
        weights: Tensor = self.embedding(indicator.to(features.dtype)).sigmoid()
        return _weighted(features, weights)


class OuterAttention(nn.Module):
    """The paper's: weights from the outer product of the embedded indicator f_p and the pooled features f_l.

    f_w = sigmoid(ReLU(W vec(f_p f_l^T))), then a convolution of F · f_w. W has C^3 entries: 134 million at C = 512.
    Shapes as of ``ChannelAttention``.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.embedding = _embedding(channels, dimensions)
        self.mix = nn.Linear(channels * channels, channels, bias=False)
        self.convolution = CONVOLUTIONS[dimensions](channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Tensor, indicator: Tensor) -> Tensor:
        pooled = global_average(features)
        embedded = self.embedding(indicator.to(features.dtype))
        outer = torch.einsum("bi,bj->bij", embedded.to(pooled.dtype), pooled)
        weights = self.mix(outer.flatten(1)).relu().sigmoid()
        return self.convolution(_weighted(features, weights))


ATTENTIONS: Mapping[str, Callable[[int, int], nn.Module]] = MappingProxyType(
    {"channel": ChannelAttention, "outer": OuterAttention}
)


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """[b, C, *size] · [b, C]."""
    return features * weights.to(features.dtype).view(*weights.shape, *(features.dim() - 2) * [1])


def _embedding(channels: int, dimensions: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(INDICATOR[dimensions], HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, channels))
