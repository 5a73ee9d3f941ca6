"""The trained part of a network: all of it, or of its frozen parts the last blocks, the biases, or low-rank changes."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from dira_scale.base.errors import UserError, require
from dira_scale.finetune.config import BIASES, FROZEN, LORA, Finetune
from dira_scale.finetune.config import Lora as LoraSettings
from dira_scale.train.engine.config import depths_of
from dira_scale.train.models.classifier import Classifier
from dira_scale.train.models.network import Network
from dira_scale.train.runs.lora import SCALE


def freeze(network: Network, config: Finetune, loaded: Collection[str] | None = None) -> None:
    """Freeze what ``config`` names, but for what learns of it; LoRA's layers are put in the places of others.

    ``loaded``: a phrase for each part that has weights of ``init``, beginning with its name; others keep estimating
    BatchNorm's statistics. None: all.

    Raises UserError for more blocks than there are, for LoRA of an encoder without its layers, or without peft.
    """
    parts = FROZEN.get(config.frozen or "", ())
    if config.trained == LORA:
        _adapt(network, config.lora)
    learned = set(_learned(network, config))
    settled = [part for part in parts if loaded is None or any(phrase.startswith(part) for phrase in loaded)]
    if config.last_blocks and "encoder" in settled:  # its last blocks train as any other
        settled = [*settled[1:], *_without(network, "encoder", learned)]
    network.freeze(*parts, learned=learned, settled=settled)


def _learned(network: Network, config: Finetune) -> Iterator[str]:
    """Names of the parameters that learn of the frozen parts. The layers that make a pyramid of a transformer's maps
    learn with the decoder, where that does; positions along the depth do, which weights of images have not."""
    names = [name for name, _ in network.named_parameters()]
    if config.trained and config.frozen:
        yield from (name for name in names if name == "encoder.depth_embed")
    if config.trained and config.frozen == "encoder" and not isinstance(network, Classifier):
        yield from (name for name in names if name.startswith("encoder.pyramid."))
    if config.trained == BIASES:
        yield from (name for name in names if name.endswith("bias"))
    elif config.trained == LORA:
        yield from (name for name in names if ".lora_" in name)
    elif config.last_blocks:
        depths, blocks = depths_of(names)
        if config.last_blocks > blocks:
            raise UserError(
                f"trained={config.trained}: {network.encoder.name} has {blocks} blocks; name as many, or fewer"
            )
        yield from (name for name, depth in depths.items() if depth > blocks - config.last_blocks)


def _without(network: Network, root: str, learned: Collection[str]) -> Iterator[str]:
    """Yield the outermost modules in ``root`` that have parameters, none of which is ``learned``."""
    within = [f"{root}.{name}" for name, _ in network.get_submodule(root).named_parameters()]
    if within and not any(name in learned for name in within):
        yield root
    elif within:
        for name, _ in network.get_submodule(root).named_children():
            yield from _without(network, f"{root}.{name}", learned)


def _adapt(network: Network, lora: LoraSettings) -> None:
    """Put peft's layers in the places of the encoder's linear layers that are called as LoRA's ``targets``:
    W x + (alpha / rank) B A x, B being 0 at the start."""
    require("trained=lora needs", "peft", "peft")
    linear = [name for name, layer in network.encoder.named_modules() if isinstance(layer, nn.Linear)]
    names = [name for name in linear if name.rpartition(".")[2] in lora.targets]
    if not names:
        raise UserError(
            f"trained=lora: {network.encoder.name} has no linear layer called {', '.join(lora.targets)}: LoRA is of "
            "transformers; use trained=biases or trained=last-1, or name others as lora.targets"
        )
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
    inject_adapter_in_model(settings, network.encoder)
    for name in names:
        network.encoder.get_submodule(name).register_buffer(SCALE, torch.tensor(lora.alpha / lora.rank))
    modules: Iterable[Any] = network.encoder.modules()
    for module in modules:
        if hasattr(module, "qkv_bias_separate"):  # else timm reads the weight of qkv, and never calls LoRA's layer
            module.qkv_bias_separate = True
