"""A fully convolutional network (Long et al., CVPR 2015) over a ResNet, as papers compare pretrained encoders with."""

import torch
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.classifier import CoarsestMap
from dira_scale.train.models.linear import resized
from dira_scale.train.models.network import Encoder, Network

CHANNELS, DILATION = 256, 6  # of the head's convolutions
STRIDE = 16  # of the dilated encoder


class FCN(Network):
    """[b, 1 or 3, H, W] -> logits [b, classes, H, W], H and W divisible by 32 (He et al., MoCo, CVPR 2020, appendix).

    The ResNet's last stage keeps its resolution: strides of 1, and 3x3 convolutions of dilation 2, so its map is at
    1/16. Two 3x3 convolutions with BatchNorm and ReLU follow, one of kernel 1, and linear interpolation.

    Raises ArgumentError for an encoder that is not one of timm's ResNets.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        stage = getattr(getattr(encoder, "model", None), "layer4", None)
        if stage is None:
            raise ArgumentError("encoder", encoder.name, "a ResNet of timm for an FCN, whose last stage is dilated")
        for layer in stage.modules():
            if isinstance(layer, nn.Conv2d):
                layer.stride = (1, 1)
                if layer.kernel_size == (3, 3):
                    layer.dilation = layer.padding = (2, 2)
            elif isinstance(layer, nn.AvgPool2d):  # of the shortcut, in ResNet-D
                layer.kernel_size = layer.stride = 1
        self.encoder = encoder
        layers: list[nn.Module] = [CoarsestMap()]
        for channels in (encoder.channels[-1], CHANNELS):
            convolution = nn.Conv2d(channels, CHANNELS, 3, padding=DILATION, dilation=DILATION, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)]
        self.decoder, self.head = nn.Sequential(*layers), FCNHead(CHANNELS, classes)


class FCNHead(nn.Conv2d):
    """A map [b, C, h, w] -> logits [b, classes, 16 h, 16 w]. Weights are drawn from N(0, 0.01), the bias is 0."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, kernel_size=1)
        nn.init.normal_(self.weight, std=0.01)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return resized(super().forward(x), torch.Size(STRIDE * side for side in x.shape[2:]))
