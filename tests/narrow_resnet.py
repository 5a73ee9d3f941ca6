"""ResNet-18 an eighth as wide, of each library that files of weights come from: a file of it has the same names.

Importing this module registers timm's as ``narrow_resnet`` and, as an encoder of that name, smp's.
"""

from collections.abc import Callable
from typing import Any

import torchvision
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet, _cfg, _create_resnet
from torch import nn
from torchvision.models.resnet import BasicBlock as PeersBlock

NAME = "narrow_resnet"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": _cfg()})


@register_model
def narrow_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Behind the stem, whose width is the same in all ResNets."""
    arguments = {"block": BasicBlock, "layers": (2, 2, 2, 2), "channels": (8, 16, 32, 64)}
    return _create_resnet(NAME, pretrained, **arguments | kwargs)


def _narrow(make: Callable[..., nn.Sequential]) -> Callable[..., nn.Sequential]:
    return lambda self, block, planes, *rest, **named: make(self, block, planes // 8, *rest, **named)


class Peer(torchvision.models.ResNet):
    """torchvision's, whose pooled features have their width too."""

    _make_layer = _narrow(torchvision.models.ResNet._make_layer)

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(PeersBlock, [2, 2, 2, 2], num_classes)
        self.fc = nn.Linear(64, num_classes)


class _Encoder(ResNetEncoder):
    _make_layer = _narrow(ResNetEncoder._make_layer)


encoders[NAME] = {
    "encoder": _Encoder,
    "params": {"out_channels": [3, 64, 8, 16, 32, 64], "block": PeersBlock, "layers": [2, 2, 2, 2]},
    "pretrained_settings": {},
}
