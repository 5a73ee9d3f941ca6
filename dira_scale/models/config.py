"""The schema of ``configs/export.yaml``, apart from the formats: reading it needs no torch."""

from dataclasses import dataclass
from typing import Any

from dira_scale.config.schema import Schema, one_of, place

# Those of ``formats.py``.
FORMATS = ("timm", "huggingface", "smp", "dira_scale", "torchvision", "monai", "onnx", "plain", "nnunet")


@dataclass
class Export(Schema):
    run: str = place()
    stage: str | None = None
    formats: Any = one_of(*FORMATS, default=None)
    out: str | None = place(None)
