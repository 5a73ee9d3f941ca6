"""A network as timm has it: its state, how its features are pooled, the ``config.json`` of a folder."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from dira_scale.export.network import TrainedNetwork
from dira_scale.train.models.pyramid import TimmEncoder
from dira_scale.train.models.timm_head import timm_head_names
from dira_scale.train.models.vit import PlainEncoder


def encoder_state(encoder: TimmEncoder, trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of ``timm.create_model(NAME, num_classes=0)`` with the entries ``trained``.

    The others, of layers after the pyramid (such as a final norm), get timm's initial values, the same at every call.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(encoder.name, num_classes=0, in_chans=encoder.channels[0], **encoder.arguments)
    model.load_state_dict(trained, strict=False)
    return dict(model.state_dict())


def head_state(network: TrainedNetwork, encoder: TimmEncoder) -> dict[str, Tensor]:
    """Return the tensors of ``network``'s classifier under timm's names for ``encoder``; empty without a classifier."""
    if network.classifier is None:
        return {}
    names, head = timm_head_names(encoder), network.classifier.head.state_dict()
    assert names is not None, "checked"
    return {timm_name: head[name] for name, timm_name in names.items()}


def features(encoder: TimmEncoder) -> str:
    """Return the source text for timm's ``encoder`` on ``image``, pooled as in training."""
    if not isinstance(encoder, PlainEncoder):
        return "encoder(image)"
    tokens = "encoder.forward_features(image)"
    if isinstance(encoder.model.norm, nn.Identity):
        tokens = f"encoder.fc_norm({tokens})"
    prefix = getattr(encoder.model, "num_prefix_tokens", 0)
    return f"{tokens}[:, {prefix}:].mean(1)  # of the patches, as pooled in training"


def config(network: TrainedNetwork, encoder: TimmEncoder) -> dict[str, Any]:
    """``config.json`` beside ``model.safetensors``, for timm's ``local-dir:`` and ``hf-hub:`` and for transformers.

    An image is squashed to the run's square, as in our evaluation, and normalised as in training.
    """
    input, channels = network.run.input, encoder.channels[0]
    native = timm.get_pretrained_cfg(encoder.name)
    classes = network.classes if network.classifier else 0
    with torch.device("meta"):
        width = timm.create_model(encoder.name, num_classes=0, **encoder.arguments).num_features
    about = {
        "input_size": [channels, *input.size],
        "fixed_input_size": encoder.fixed_size,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": [*(input.mean or channels * (0.0,))],
        "std": [*(input.deviation or channels * (1.0,))],
        "num_classes": classes,
        "pool_size": native.pool_size and [*native.pool_size],
        # timm adapts the first layer of weights of three channels to another `in_chans`, by this name.
        "first_conv": native.first_conv if channels == 3 else None,
        "classifier": native.classifier,
    }
    arguments = encoder.arguments | ({} if channels == 3 else {"in_chans": channels})
    names = {"label_names": [*network.run.output.names]} if classes else {}
    return {
        "architecture": encoder.name,
        "num_classes": classes,
        "num_features": width,
        "pretrained_cfg": about,
        **({"model_args": arguments} if arguments else {}),
        **names,
    }
