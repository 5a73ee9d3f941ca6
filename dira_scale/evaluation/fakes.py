"""Encoders without memory, for checks of a run that has not trained yet."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from dira_scale.models.architecture import architecture
from dira_scale.models.network import Encoder


def fake_encoder(model: Mapping[str, Any], size: int | tuple[int, ...]) -> Encoder:
    """Return the encoder of the node ``model`` for images of ``size``; its tensors have no memory."""
    return _encoder(json.dumps(dict(model)), size)


@lru_cache
def _encoder(model: str, size: int | tuple[int, ...]) -> Encoder:
    with torch.device("meta"):
        return architecture(json.loads(model)).build_encoder(size)
