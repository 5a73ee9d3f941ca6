"""The encoder: a timm backbone as a feature pyramid, randomly initialised."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import nearest
from dira_scale.train.models.drop_path import drop_by_position
from dira_scale.train.models.network import on_meta
from dira_scale.train.models.pyramid import DEPTH, HierarchicalEncoder, TimmEncoder
from dira_scale.train.models.vit import PlainEncoder

REFUSED = {  # arguments of timm's that would not be what the configuration says
    "pretrained": "weights are loaded from a file",
    "patch_drop_rate": "a pyramid needs all patches",
    **dict.fromkeys(
        ("drop_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "drop_block_rate"),
        "dropout within a sample would depend on the number of processes",
    ),
    **dict.fromkeys(
        ("checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay"), "it names a file or an address"
    ),
}
# A process builds the same network several times. By name and arguments: timm's; with channels and size those that
# have passed :func:`_check_pyramid`.
_KNOWN: dict[str, Any] = {}
_CHECKED: set[str] = set()
UNIFORM = "drop_path_uniform"  # ours: timm's rate rises from 0 at the first block
# What timm's and smp's constructors and forward passes raise for an unsuitable backbone or size.
_UNSUITABLE = (
    ValueError, RuntimeError, AttributeError, NotImplementedError, AssertionError, TypeError, IndexError, KeyError,
    ZeroDivisionError,
)  # fmt: skip


def build_encoder(
    name: str,
    in_channels: int = 3,
    size: int | None = None,
    zero_init_residual: bool = False,
    arguments: Mapping[str, Any] = MappingProxyType({}),
    positions: str = "timm",
) -> TimmEncoder:
    """The timm backbone ``name`` as a feature pyramid for views of ``size`` pixels (None: timm's own), random weights.

    A network with a single resolution (a plain ViT) gets a light pyramid, :mod:`dira_scale.train.models.vit`.
    Stochastic depth and dropout are off. ``arguments``, for ``timm.create_model``, may turn the first on
    (``drop_path_rate``, of a ViT with ``drop_path_uniform`` in all blocks alike;
    ``dira_scale.train.models.drop_path``), or change a ViT's ``depth``, ``patch_size``, ….
    ``positions``: how a plain ViT's learnt ones are resampled, one of ``vit.CUBICS``.
    ``zero_init_residual`` starts the last BatchNorm of every residual block at 0 (Goyal et al., 2017, sec. 5.1), else
    at 1 as torchvision does.

    Raises ArgumentError for a backbone or ``arguments`` that timm does not have, for one that has no pyramid at this
    size, or no such BatchNorm to start at 0.
    """
    for_timm = timm_arguments(name, arguments)
    native = timm.get_pretrained_cfg(name)
    size = size or native.input_size[-1]
    resized = {"img_size": size} if native.fixed_input_size and size != native.input_size[-1] else {}
    try:
        reductions = {stage["reduction"] for stage in timms(name, resized | for_timm).feature_info}
        kind = PlainEncoder if len(reductions) == 1 else HierarchicalEncoder
        encoder = kind(name, in_channels, resized | for_timm)
        settle(encoder, arguments)
        if isinstance(encoder, PlainEncoder):
            encoder.positions = positions
        _check_pyramid(encoder, in_channels, size)
    except _UNSUITABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if arguments and isinstance(error, TypeError):
            raise ArgumentError("arguments", dict(arguments), f"those of timm's '{name}' ({reason})") from error
        below, step = size // 2**DEPTH * 2**DEPTH, 2**DEPTH
        adjusted = f" with the arguments {dict(arguments)}" if arguments else ""
        lacking = f"{name}{adjusted} has no feature pyramid down to 1/{step} for views of {size} pixels ({reason})"
        if size != below:  # no other network would do
            fitting = f"{below} or {below + step}" if below else f"{step}"
            raise ArgumentError("size", size, f"{fitting}: {lacking}") from error
        such = "a network with a feature pyramid, such as resnet50, convnext_tiny or vit_small_patch16_224"
        raise ArgumentError("encoder", name, f"{such}: {lacking}") from error
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    # The last of every residual block, which alone timm starts at 0. On the meta device (dira_scale.plan) there are no
    # values: take all of them.
    zero_norms = [layer for layer in norms if layer.affine and (layer.weight.is_meta or not layer.weight.any())]
    if zero_init_residual and not zero_norms:
        expected = f"false: {name} has no BatchNorm at the end of its residual blocks to start at 0"
        raise ArgumentError("zero_init_residual", True, expected)
    if not zero_init_residual:
        for layer in zero_norms:
            nn.init.ones_(layer.weight)
    return encoder


def timm_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of ``arguments`` that are timm's. Raises ArgumentError if it has no backbone ``name``, or for those
    that would not be what the configuration says."""
    if name not in (backbones := timm.list_models()):
        raise ArgumentError("encoder", name, f"a backbone of timm {timm.__version__}{nearest(name, backbones)} "
                            '(list them with: python -c "import timm; print(*timm.list_models())")')  # fmt: skip
    for refused, reason in REFUSED.items():
        if refused in arguments and (arguments[refused] or not refused.endswith("_rate")):
            raise ArgumentError(f"arguments.{refused}", arguments[refused], f"to be left out: {reason}")
    return {argument: value for argument, value in arguments.items() if argument != UNIFORM}


def settle(encoder: TimmEncoder, arguments: Mapping[str, Any]) -> None:
    """Turn randomness off unless ``arguments`` set some of it, or give all blocks the same."""
    if arguments.get(UNIFORM):
        drop_alike(encoder, arguments.get("drop_path_rate", 0.0))
    drop_by_position(encoder)
    if not any(argument.endswith(("_rate", "_coords")) for argument in arguments):
        disable_randomness(encoder)


def check_view(encoder: TimmEncoder, size: int) -> None:
    """Raise ArgumentError unless ``encoder`` has its pyramid for views of ``size``, another size than that for which it
    was built."""
    try:
        _check_pyramid(encoder, encoder.channels[0], size)
    except _UNSUITABLE as error:
        reason, step = " ".join(str(error).split()) or type(error).__name__, 2**DEPTH
        expected = "that of the first crops, or a network of several, such as resnet50 or vit_small_patch16_224"
        if size % step:  # no other network would do
            expected = f"{max(1, size // step) * step}"
        raise ArgumentError("size", size, f"{expected}: {encoder.name} does not take these views ({reason})") from error


def timms(name: str, arguments: Mapping[str, Any]) -> Any:
    """``timm.create_model(name, num_classes=0)``, without values; once a process: it takes 0.1 s and more."""
    if (key := _key(name, arguments)) not in _KNOWN:
        with torch.device("meta"):
            _KNOWN[key] = timm.create_model(name, num_classes=0, **arguments)
    return _KNOWN[key]


def timm_entries(encoder: TimmEncoder) -> list[str]:
    """Names in ``timm.create_model(name, num_classes=0).state_dict()``, including those that the pyramid omits."""
    return list(timms(encoder.name, encoder.arguments).state_dict())


def timm_names(encoder: TimmEncoder) -> dict[str, str]:
    """Name in ``encoder.state_dict()`` -> name in ``timm.create_model(name, num_classes=0).state_dict()``.

    A pyramid keeps timm's names except for the dots of nested stages (``stages.0`` is ``stages_0``). Entries that timm
    does not have (the light pyramid over a ViT) are left out.
    """
    by_dotted = {name.replace("_", "."): name for name in timm_entries(encoder)}
    prefix = "model." * (2 if isinstance(getattr(encoder.model, "model", None), nn.Module) else 1)
    backbone = [name for name in encoder.state_dict() if name.startswith("model.")]
    return {name: by_dotted[name.removeprefix(prefix).replace("_", ".")] for name in backbone}


def _key(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name} {sorted(arguments.items())}"


def disable_randomness(encoder: nn.Module) -> None:
    """Turn off stochastic depth, dropout and the jitter of rotary positions."""
    for layer in encoder.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif hasattr(layer, "aug_active"):
            layer.aug_active = False  # type: ignore[assignment]


def drop_alike(encoder: TimmEncoder, rate: float) -> None:
    """Give stochastic depth one ``rate`` in all blocks of a transformer (DINOv2). Raises TypeError for others."""
    blocks = getattr(encoder.model, "blocks", ())
    if not blocks or not all(hasattr(block, "drop_path1") for block in blocks):
        raise TypeError(f"{UNIFORM} is of vision transformers")
    for block in blocks:
        block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)


def _check_pyramid(encoder: TimmEncoder, in_channels: int, size: int) -> None:
    """Raise unless views of this size give the maps that a decoder expects, by a forward pass on the meta device."""
    checked = f"{_key(encoder.name, encoder.arguments)} {in_channels} {size}"
    if checked in _CHECKED:
        return
    maps = on_meta(encoder).eval()(torch.empty(1, in_channels, size, size, device="meta"))
    shapes = [tuple(features.shape) for features in maps]
    expected = [(1, count, size >> level, size >> level) for level, count in enumerate(encoder.channels)]
    if shapes != expected:
        actual, wanted = ([shape[-1] for shape in sizes] for sizes in (shapes, expected))
        if actual != wanted:
            raise ValueError(f"its maps have {actual} pixels instead of {wanted}")
        raise ValueError(f"its maps are {shapes} instead of {expected}")
    _CHECKED.add(checked)
