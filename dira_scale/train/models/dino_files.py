"""Files of DINOv2 and DINOv3, their authors' and transformers', as timm has their tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import eva, vision_transformer
from torch import Tensor

from dira_scale.train.models.tensor_files import WeightsError
from dira_scale.train.models.translations import Rules, translate

MASK_TOKEN = "mask_token"
KERNEL = "patch_embed.proj.weight"
POSITIONS = "pos_embed"
AUTHORS, OF_TRANSFORMERS = "DINO's", "transformers' DINO"  # whose layout
LARGEST_PATCH = 64  # pixels: resampling a side s takes memory of s to the fourth, and a file may be a stranger's
REGISTERS = ("register_tokens", "storage_tokens")  # DINOv2's, DINOv3's
# Names of transformers' Dinov2Model (RAD-DINO), Dinov2WithRegistersModel and DINOv3ViTModel -> the authors'.
TRANSFORMERS: Rules = (
    (r"\bembeddings\.patch_embeddings\.(?:projection\.)?(?=\w+$)", "patch_embed.proj."),
    (r"\bembeddings\.position_embeddings$", "pos_embed"),
    (r"\bembeddings\.(?=\w+$)", ""),
    (r"\b(?:encoder\.|model\.)?layer\.(?=\d+\.)", "blocks."),
    (r"\battention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r"attn.\1."),
    (r"\battention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"\blayer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"\bmlp\.weights_in\.", "mlp.w12."),
    (r"\bmlp\.weights_out\.", "mlp.w3."),
    (r"\blayernorm\.", "norm."),
)
_GATED: Rules = (
    (r"\bmlp\.gate_proj\.", "mlp.w1."), (r"\bmlp\.up_proj\.", "mlp.w2."), (r"\bmlp\.down_proj\.", "mlp.w3."),
)  # fmt: skip
_PLAIN: Rules = ((r"\bmlp\.up_proj\.", "mlp.fc1."), (r"\bmlp\.down_proj\.", "mlp.fc2."))
_CHUNKS: Rules = ((r"\bblocks\.\d+\.(?=\d+\.)", "blocks."),)  # in training, blocks lie in chunks
_DAMAGED = (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)


def is_kernel(name: str, tensor: Tensor) -> bool:
    """Return whether ``tensor`` is the kernel of an image's patches [dim, c, h, w], of a side that can be resampled."""
    square = name.endswith(KERNEL) and tensor.dim() == 4
    return square and min(tensor.shape) > 0 and max(tensor.shape[2:]) <= LARGEST_PATCH


def as_timms(stored: Mapping[str, Tensor], model: Any, name: str) -> tuple[str, dict[str, Tensor]]:
    """Return whose layout ``stored`` is in, and its tensors as timm's ``model``, called ``name``, has them; "" and
    ``stored`` unless it is a file of DINOv2 or DINOv3 and ``model`` a transformer of their kind.

    The authors' names become timm's by timm's own conversion, which also resamples the positions of networks with
    registers. Others, prefixes, the mask token, which timm has not, and the kernel of patches, which is resampled once,
    later, stay.

    Raises WeightsError for other register tokens than the network's, biases that it does not have, damaged files.
    """
    if not isinstance(model, vision_transformer.VisionTransformer | eva.Eva):
        return "", dict(stored)
    whose, tensors = AUTHORS, {translate(key, _CHUNKS): tensor for key, tensor in stored.items()}
    try:
        if any(key.endswith("embeddings.cls_token") for key in stored):
            whose, tensors = OF_TRANSFORMERS, _authors(stored)
        prefixes = [key.removesuffix("cls_token") for key in tensors if key.endswith("cls_token")]
        prefixes = [p for p in prefixes if p + KERNEL in tensors and _is_dinos(p, tensors)]
        for prefix in prefixes:
            own = {key.removeprefix(prefix): tensors.pop(key) for key in [*tensors] if key.startswith(prefix)}
            token = {prefix + MASK_TOKEN: own[MASK_TOKEN]} if MASK_TOKEN in own else {}
            timms = _timms(own, model, name) | {KERNEL: own[KERNEL]}
            tensors |= {prefix + key: tensor for key, tensor in timms.items()} | token
    except WeightsError:
        raise
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"is of another network than {name}, or damaged ({reason})") from error
    return (whose, tensors) if prefixes else ("", dict(stored))


def _is_dinos(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there are registers, or a mask token [1, dim]; masked autoencoders and BEiT have [1, 1, dim]."""
    token = tensors.get(prefix + MASK_TOKEN)
    return any(prefix + name in tensors for name in REGISTERS) or (token is not None and token.dim() == 2)


def _authors(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors by the authors' names, with one projection to queries, keys and values."""
    gates = _GATED if any(".gate_proj." in key for key in stored) else _PLAIN
    tensors = {translate(key, (*TRANSFORMERS, *gates)): tensor for key, tensor in stored.items()}
    for key in [key for key in tensors if ".attn.q." in key]:
        query = tensors.pop(key)
        if key.endswith(".bias"):  # DINOv3's keys have none
            tensors.setdefault(key.replace(".q.", ".k."), torch.zeros_like(query))
        others = [tensors.pop(key.replace(".q.", f".{part}.")) for part in "kv"]
        tensors[key.replace(".q.", ".qkv.")] = torch.cat([query, *others])
    return tensors


def _timms(own: dict[str, Tensor], model: Any, name: str) -> dict[str, Tensor]:
    """The authors' tensors, without a prefix, as timm's."""
    if max(own[KERNEL].shape[2:]) > LARGEST_PATCH:
        raise WeightsError(f"has patches of more than {LARGEST_PATCH} pixels")
    count = max(own[key].shape[1] if key in own else 0 for key in REGISTERS)
    needed = 0 if model.reg_token is None else model.reg_token.shape[1]
    if count != needed:
        raise WeightsError(
            f"has {count} register tokens, {name} has {needed}; load it into an encoder of as many, such as "
            "vit_base_patch14_dinov2 (0), vit_base_patch14_reg4_dinov2 or vit_base_patch16_dinov3 (4)"
        )
    if isinstance(model, vision_transformer.VisionTransformer):
        positions = {} if count else {POSITIONS: own.pop(POSITIONS)}  # of these, timm's resampling is not the authors'
        own = own | {MASK_TOKEN: own.get(MASK_TOKEN, torch.empty(0))}  # by which timm knows DINOv2
        return vision_transformer.checkpoint_filter_fn(own, model) | positions
    own = {key.replace(REGISTERS[0], REGISTERS[1]): tensor for key, tensor in own.items()}
    if getattr(model.blocks[0].attn, "q_bias", None) is None:
        biases = [own.pop(key).chunk(3) for key in [*own] if key.endswith(".attn.qkv.bias")]
        if any(query.any() or value.any() for query, _, value in biases):
            raise WeightsError(f"has biases of queries and values; load it into the encoder {name}_qkvb")
    return eva.checkpoint_filter_fn(own, model)
