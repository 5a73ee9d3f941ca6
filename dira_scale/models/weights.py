"""From a checkpoint's tensors to networks, with plain BatchNorm."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dira_scale.errors import UserError
from dira_scale.models.architecture import architecture
from dira_scale.models.network import Encoder, Network

Tensors = Mapping[str, Tensor]


def trained_encoder(config: Mapping[str, Any], tensors: Tensors) -> Encoder:
    """The encoder of a run's ``config`` with the weights of one of its checkpoints, in evaluation mode.

    ``tensors``: a checkpoint's, of a method with an ``encoder``, or with a ``base`` that has one.

    Raises ``UserError`` if the method keeps its encoder elsewhere.
    """
    encoder = architecture(config["model"]).build_encoder(config["data"]["size"])
    _fill(encoder, _encoder_prefix(tensors), tensors)
    return encoder.eval()


def trained_network(config: Mapping[str, Any], encoder: Encoder, tensors: Tensors) -> Network:
    """``encoder`` with the decoder and head of the same checkpoint; ``UserError`` if they have other names there.

    The head's output is an image on the scale of the input's, also where the method trained it on another
    (``method.target_scale``).
    """
    network = architecture(config["model"]).build_network(encoder)
    _fill(network.decoder, "method.decoder.", tensors)
    _fill(network.head, "method.head.", tensors)
    for parameter in network.head.parameters():
        parameter.data /= config["method"].get("target_scale", 1.0)
    return network.eval()


def _encoder_prefix(tensors: Tensors) -> str:
    """``method.encoder.``, or ``method.base.encoder.`` if a method wraps another."""
    for name in tensors:
        if match := re.match(r"method\.(base\.)*encoder\.", name):
            return match[0]
    raise UserError("the checkpoint's method has no `encoder` (or `base.encoder`, if it wraps another): name it so")


def _fill(module: nn.Module, prefix: str, tensors: Tensors) -> None:
    for name in module.state_dict():
        if prefix + name not in tensors:
            raise UserError(
                f"the checkpoint has no {prefix}{name}: a method must name its network encoder, decoder and head"
            )
    module.load_state_dict({name: tensors[prefix + name] for name in module.state_dict()})
