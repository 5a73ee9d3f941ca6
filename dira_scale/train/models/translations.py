"""From other libraries' parameter names to timm's."""

import re
from collections.abc import Callable, Sequence

from torch import Tensor

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
_RESNET = r"^((?:[A-Za-z_]\w*\.)*)"  # a prefix before the numbered children of a ResNet in nn.Sequential


def _stage(kind: str, first: int) -> Callable[[re.Match[str]], str]:
    """torchvision numbers stages and the downsampling between them in one list, timm only the stages."""
    return lambda match: f"{kind}.{(int(match[1]) - first) // 2}."


# Other libraries' names -> timm's, where they differ. Applied in order, after any prefix.
TRANSLATIONS: dict[str, Rules] = {
    "timm or torchvision": (),
    "torchvision ConvNeXt": (
        (r"\bfeatures\.0\.", "stem."),
        (r"\bfeatures\.([1357])\.(?=\d+\.(?:block|layer_scale))", lambda m: _stage("stages", 1)(m) + "blocks."),
        (r"\bfeatures\.([246])\.", lambda m: _stage("stages", 0)(m) + "downsample."),
        (r"\bblock\.0\.", "conv_dw."),
        (r"\bblock\.2\.", "norm."),
        (r"\bblock\.3\.", "mlp.fc1."),
        (r"\bblock\.5\.", "mlp.fc2."),
        (r"\blayer_scale$", "gamma"),
    ),
    "torchvision Swin": (
        (r"\bfeatures\.0\.0\.", "patch_embed.proj."),
        (r"\bfeatures\.0\.2\.", "patch_embed.norm."),
        (r"\bfeatures\.([1357])\.(?=\d+\.)", lambda m: _stage("layers", 1)(m) + "blocks."),
        (r"\bfeatures\.([246])\.", lambda m: _stage("layers", 0)(m) + "downsample."),
        (r"\bmlp\.0\.", "mlp.fc1."),
        (r"\bmlp\.3\.", "mlp.fc2."),
    ),
    "torchvision ViT": (
        (r"\bclass_token$", "cls_token"),
        (r"\bconv_proj\.", "patch_embed.proj."),
        (r"\bencoder\.pos_embedding$", "pos_embed"),
        (r"\bencoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"\bencoder\.ln\.", "norm."),
        (r"\bln_([12])\.", r"norm\1."),
        (r"\bself_attention\.in_proj_", "attn.qkv."),
        (r"\bself_attention\.out_proj\.", "attn.proj."),
        (r"\bmlp\.(?:0|linear_1)\.", "mlp.fc1."),
        (r"\bmlp\.(?:3|linear_2)\.", "mlp.fc2."),
    ),
    "children of a ResNet": (
        (_RESNET + r"0\.(?=weight$)", r"\1conv1."),
        (_RESNET + r"1\.(?=\w+$)", r"\1bn1."),
        (_RESNET + r"([4567])\.(?=\d+\.)", lambda m: f"{m[1]}layer{int(m[2]) - 3}."),
    ),
}

_LEVELS = {"down_tr64": 0, "down_tr128": 1, "down_tr256": 2, "down_tr512": 3}
_STEPS = {"up_tr256": 0, "up_tr128": 1, "up_tr64": 2}
_LAYERS = {"conv1": "conv", "bn1": "norm"}

# Of networks of volumes: published names -> ours, of encoder, decoder and head.
UNET3D: Rules = (
    (r"\b(down_tr\d+)\.ops\.([01])\.(conv1|bn1)\.",
     lambda m: f"encoder.levels.{_LEVELS[m[1]]}.{m[2]}.{_LAYERS[m[3]]}."),
    (r"\b(up_tr\d+)\.up_conv\.", lambda m: f"decoder.levels.{_STEPS[m[1]]}.up."),
    (r"\b(up_tr\d+)\.ops\.([01])\.(conv1|bn1)\.",
     lambda m: f"decoder.levels.{_STEPS[m[1]]}.convs.{m[2]}.{_LAYERS[m[3]]}."),
    (r"\bout_tr\.final_conv\.", "head."),
)  # fmt: skip
# nnU-Net stores each tensor up to four times: also in a list of all layers, and the encoder's in the decoder.
RESENC: Rules = (
    (r"\bdecoder\.(encoder|seg_layers)\.", r"\1."),
    (r"\.all_modules\.0\.", ".conv."),
    (r"\.all_modules\.1\.", ".norm."),
)
SWINUNETR: Rules = (
    (r"(?<!encoder\.)\b((?:swinViT|encoder\d+)\.)", r"encoder.\1"),
    (r"(?<!decoder\.)\b(decoder\d\.)", r"decoder.\1"),
    (r"\bout\.conv\.conv\.", "head.conv.conv."),
)
VIT3D: Rules = (
    (r"\bdown_projection\.proj\.", "encoder.embed."),
    (r"\beva\.", "encoder.transformer."),
    (r"(?<!transformer\.)\bregister_tokens$", "encoder.transformer.register_tokens"),
    (r"\bdecoder\.(?=pos_embed$|blocks\.|norm\.)", "filler.transformer."),  # of nnssl's masked autoencoder
    (r"\bup_projection\.decode\.2\.", "head."),
    (r"\bup_projection\.decode\.", "decoder.stages."),
)


# The eight neighbours that Swin UNETR's patch merging joins, in its order, after the first and last axis have changed
# places: 000 100 010 001 110 101 011 111 become 000 001 010 100 011 101 110 111.
_MERGED = (0, 3, 2, 1, 6, 5, 4, 7)


def other_axes(name: str, tensor: Tensor) -> Tensor:
    """The entry of a network of volumes [x, y, z] as that of volumes [z, y, x], or back: both compute the same.

    Kernels [out, in, *size] exchange their first and last axis, and so do relative positions; merged patches their
    order.
    """
    if tensor.dim() == 5:
        return tensor.transpose(2, 4).contiguous()
    if name.endswith("relative_position_bias_table"):
        side = round(len(tensor) ** (1 / 3))
        return tensor.view(side, side, side, -1).transpose(0, 2).reshape(tensor.shape)
    if ".downsample." in name:
        blocks = tensor.unflatten(-1, (8, -1))  # of the norm [8 c], of the projection [2 c, 8 c]
        return blocks[..., list(_MERGED), :].flatten(-2)
    return tensor


def translate(name: str, rules: Rules) -> str:
    """``name`` after all ``rules``, applied in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
