"""A ResNet of 8,000 weights, which timm has not: importing this module registers it as ``tiny_resnet``."""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet, _cfg, _create_resnet

NAME = "tiny_resnet"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": _cfg()})


@register_model
def tiny_resnet(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """One basic block a stage. Checkpoints of it are fixtures (tests/fixtures/make.py): it stays as it is.

    Of layers with 4 channels and less the gradients write beyond their memory on CPUs of AVX2 (oneDNN of torch 2.13).
    """
    arguments = {"block": BasicBlock, "layers": (1, 1, 1, 1), "stem_type": "deep", "stem_width": 8}
    arguments |= {"channels": (8, 8, 8, 8)}
    return _create_resnet(NAME, pretrained, **arguments | kwargs)
