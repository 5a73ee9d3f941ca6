"""The schemas of ``model.*`` and ``configs/export.yaml``, apart from the networks: reading them needs no torch."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from dira_scale.config.schema import Schema, at_least, one_of, place

FORMATS = ("timm", "smp", "dira_scale", "torchvision", "monai", "onnx")  # those of ``formats.py``


@dataclass
class Model(Schema):
    encoder: str = MISSING
    weights: str | None = place(None)
    decoder_channels: list[int] = at_least(1)
    bn_groups: int = at_least(1)
    zero_init_residual: bool = MISSING


@dataclass
class Export(Schema):
    run: str = place()
    stage: str | None = None
    formats: Any = one_of(*FORMATS, default=None)
    out: str | None = place(None)
