"""The classification head that timm has over a backbone, and its names there."""

from collections.abc import Mapping

import timm
import torch
from torch import nn

from dira_scale.train.models.classifier import ClassificationHead
from dira_scale.train.models.encoder import timm_entries, timm_names
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.vit import PlainEncoder

_NORMS = {"norm": True, "head.norm": False}  # timm's name: whether it comes before the average


def timm_head(encoder: TimmEncoder, classes: int) -> ClassificationHead:
    """The head for ``encoder``: as timm's, unless that has layers of other kinds, which it is then without."""
    channels, name = encoder.channels[-1], _norm(encoder)
    if name is None:
        return ClassificationHead(channels, classes)
    with torch.device("meta"):
        timms = timm.create_model(encoder.name, num_classes=0, **encoder.arguments).get_submodule(name)
    return ClassificationHead(channels, classes, nn.LayerNorm(channels, timms.eps), norm_first=_NORMS[name])


def timm_head_names(encoder: TimmEncoder) -> Mapping[str, str] | None:
    """Name in the head's state -> name in ``timm.create_model(name, num_classes=classes).state_dict()``.

    None if timm's has other layers (EfficientNet) or pools otherwise (ViT's class token).
    """
    norm = _norm(encoder)
    if isinstance(encoder, PlainEncoder) or (norm is None and _after_pyramid(encoder)):
        return None
    modules = {"fc": timm.get_pretrained_cfg(encoder.name).classifier} | ({"norm": norm} if norm else {})
    return {f"{ours}.{entry}": f"{timms}.{entry}" for ours, timms in modules.items() for entry in ("weight", "bias")}


def _norm(encoder: TimmEncoder) -> str | None:
    """The norm that is all that timm has between the pyramid and its linear layer; None if that is not so."""
    entries = _after_pyramid(encoder)
    return next((norm for norm in _NORMS if entries == {f"{norm}.weight", f"{norm}.bias"}), None)


def _after_pyramid(encoder: TimmEncoder) -> set[str]:
    return {*timm_entries(encoder)} - {*timm_names(encoder).values()}
