"""From a checkpoint's tensors to the names and the BatchNorm of plain timm and segmentation_models_pytorch."""

import re
from collections.abc import Mapping, Sequence

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor

from dira_scale.errors import UserError
from dira_scale.models.encoder import build_encoder, timm_names

Tensors = Mapping[str, Tensor]


def encoder_weights(name: str, tensors: Tensors) -> tuple[dict[str, Tensor], list[str]]:
    """The state of ``timm.create_model(name, num_classes=0)``, and which of its entries the pyramid does not have.

    Those (such as a final norm) were not trained and have timm's initial values, the same at every call. ``tensors``:
    a checkpoint's, of a method with an ``encoder`` or of one that wraps such a ``base``.

    Raises ``UserError`` for the tensors of a method that keeps its encoder elsewhere.
    """
    prefix = _encoder_prefix(tensors)
    state = {theirs: tensors[prefix + ours] for ours, theirs in timm_names(build_encoder(name)).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = timm.create_model(name, in_chans=3, num_classes=0)
    whole.load_state_dict(state, strict=False)
    initial = [entry for entry in whole.state_dict() if entry not in state]
    return _plain(whole.state_dict()), initial


def unet_weights(name: str, decoder_channels: Sequence[int], tensors: Tensors) -> dict[str, Tensor]:
    """The state of ``smp.Unet("tu-NAME", classes=1, decoder_channels=decoder_channels)``: logits of the restoration.

    Raises ``UserError`` for the tensors of a method that keeps its parts elsewhere.
    """
    ours = {"encoder.": _encoder_prefix(tensors), "decoder.": "method.decoder.", "segmentation_head.0.": "method.head."}
    unet = smp.Unet(f"tu-{name}", encoder_weights=None, decoder_channels=decoder_channels)
    state = {}
    for theirs in unet.state_dict():
        part = next(part for part in ours if theirs.startswith(part))
        name_in_run = ours[part] + theirs.removeprefix(part)
        if name_in_run not in tensors:
            raise UserError(
                f"the checkpoint has no {name_in_run}: a method keeps its U-Net as encoder, decoder and head"
            )
        state[theirs] = tensors[name_in_run]
    unet.load_state_dict(state)
    return _plain(unet.state_dict())


def _encoder_prefix(tensors: Tensors) -> str:
    """``method.encoder.``, or ``method.base.encoder.`` where a method wraps another."""
    for name in tensors:
        if found := re.match(r"method\.(base\.)*encoder\.", name):
            return found[0]
    raise UserError("the checkpoint's method keeps no `encoder`, or `base.encoder` where it wraps another: name it so")


def _plain(state: Tensors) -> dict[str, Tensor]:
    """Copies as a file wants them: contiguous, whatever memory format they were trained in."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
