"""A Swin small enough for tests, which timm has not: importing this module registers it as ``tiny_swin``."""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.swin_transformer import SwinTransformer, _cfg, _create_swin_transformer

NAME = "tiny_swin"
default_cfgs = generate_default_cfgs({f"{NAME}.untrained": _cfg()})


@register_model
def tiny_swin(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Windows of 7 pixels and, unlike larger ones by default, stochastic depth in every block but the first."""
    arguments = {"window_size": 7, "embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 2, 4)}
    return _create_swin_transformer(NAME, pretrained, **arguments | kwargs)
