"""From a checkpoint's tensors to networks, with plain BatchNorm."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dira_scale.base.errors import UserError
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.memory_limit import as_large_as
from dira_scale.train.models.network import Encoder, Network
from dira_scale.train.runs.description import FILE, Description

NamedTensors = Mapping[str, Tensor]


def trained_encoder(run: Description, tensors: NamedTensors) -> Encoder:
    """The encoder of ``run`` with the weights of one of its checkpoints, in evaluation mode.

    Raises ``UserError`` if the checkpoint has them under other names.
    """
    if run.tensors.encoder is None:
        raise UserError(f"{run.title} has no encoder")
    model, channels = architecture(run.network.architecture), run.network.channels
    other = {} if channels == model.channels else {"channels": channels}
    with as_large_as(tensors.values(), FILE):
        encoder = model.build_encoder(run.input.sides, **other)
    _fill(encoder, run.tensors.encoder, tensors)
    return encoder.eval()


def trained_network(run: Description, encoder: Encoder, tensors: NamedTensors) -> Network:
    """``encoder`` with the decoder and head of the same checkpoint; ``UserError`` if they have other names there.

    A head that restores an image does so on the scale of the input's, also where it was trained on another.
    """
    model, channels = architecture(run.network.architecture), run.output.channels
    with as_large_as(tensors.values(), FILE):
        network = model.build(run.network.head, encoder, channels)
    _fill(network.decoder, run.tensors.decoder, tensors)
    _fill(network.head, run.tensors.head, tensors)
    for parameter in network.head.parameters():
        parameter.data /= run.output.scale
    return network.eval()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 (hex) over name, type, shape and values of all tensors, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _fill(module: nn.Module, prefix: str | None, tensors: NamedTensors) -> None:
    """Copy the tensors one after another, as each may be read only now."""
    for name, own in module.state_dict().items():
        if f"{prefix}.{name}" not in tensors:
            raise UserError(
                f"the checkpoint has no {prefix}.{name}: a method must name its network encoder, decoder and head"
            )
        with as_large_as((), FILE):
            if (tensor := tensors[f"{prefix}.{name}"]).shape != own.shape:
                raise ValueError(f"{prefix}.{name} is {list(tensor.shape)} there, and {list(own.shape)} here")
            own.copy_(tensor)
