"""Masked views, small networks of images and volumes, and SparK's own way of a sparse encoder, for tests."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train.data.volumes import NONE
from train.methods.tiny import Facts

from dira_scale.train.data.distort.corruptions import BlockMask
from dira_scale.train.data.views import Jitter, ViewSpec
from dira_scale.train.methods import check_batch, construct
from dira_scale.train.methods.method import Method

UNET = {
    "_target_": "TimmUNet",
    "encoder": "test_resnet", "weights": None, "decoder_channels": [8] * 5, "bn_groups": 2, "zero_init_residual": False,
}  # fmt: skip
UNET3D = {"_target_": "UNet3D", "width": 0.0625, "norm": "batch", "up": "transposed", "weights": None, "bn_groups": 2}
RESENC = {"_target_": "ResEnc", "features": [4, 8, 8], "blocks": [1, 1, 2], "weights": None, "bn_groups": 2}
VIT3D = {
    "_target_": "ViT3D", "embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 1, "decoder_channels": [8, 8],
    "weights": None, "bn_groups": 2,
}  # fmt: skip
NETWORKS: dict[str, tuple[dict[str, Any], Any, int]] = {
    "resnet": (UNET, 64, 32),
    **{norm: (UNET3D | {"norm": norm}, (8, 16, 16), 8) for norm in ("batch", "instance")},
    "group": (UNET3D | {"norm": "group", "width": 0.25}, (8, 8, 16), 8),
    "resenc": (RESENC, (8, 16, 16), 8),
    "vit3d": (VIT3D, (16, 32, 32), 16),
}


def masked(size: Any, block: int, count: int = 1) -> ViewSpec:
    return ViewSpec(
        count=count, size=size, corruptions={"mask": BlockMask(block, 0.5)}, **NONE | {"jitter": Jitter(p=0)}
    )


def built(node: dict[str, Any], model: dict[str, Any], views: ViewSpec, batch: int = 4, groups: int = 2) -> Method:
    torch.manual_seed(0)
    method = construct(node, model, views)
    check_batch(method, batch, groups, 1)
    return method.double().train()


def mae(network: str = "resnet", groups: int = 2, **settings: Any) -> Method:
    model, size, block = NETWORKS[network]
    return built({"_target_": "MAE"} | settings, model, masked(size, block), groups=groups)


def masked_batch(views: ViewSpec, count: int = 4, seed: int = 0) -> tuple[list[Tensor], list[Tensor], Any]:
    """Clean and masked views [count, 1, *size] in float64, and the batch with what is hidden."""
    generator, mask = np.random.default_rng(seed), views.corruptions["mask"]
    clean, hidden, distorted = [], [], []
    for _ in range(views.count):
        clean.append(torch.from_numpy(generator.random((count, 1, *views.sides))))
        drawn = mask.draw(generator.random((count, mask.numbers(views.sides))), views.sides)
        hidden.append({name: torch.from_numpy(value) for name, value in drawn.items()})
        distorted.append(mask.apply(clean[-1], hidden[-1]))
    return clean, distorted, batch_of(hidden)


def batch_of(hidden: list[dict[str, Tensor]]) -> Any:
    return Facts(step=0, distortions=[SimpleNamespace(corruptions={"mask": params}) for params in hidden])


def voxels(blocks: Tensor, size: Any) -> Tensor:
    """``blocks`` [b, *blocks] for each voxel, [b, 1, *size], by np.kron."""
    ones = np.ones([n // m for n, m in zip(size, blocks.shape[1:], strict=True)])
    return torch.from_numpy(np.stack([np.kron(sample, ones) for sample in blocks.numpy()]))[:, None] > 0


def as_spark(encoder: nn.Module, blocks: Tensor) -> nn.Module:
    """Hooks as SparK's layers: hidden positions are zeroed after each; a norm is of the gathered visible positions."""

    def zeroed(layer: nn.Module, inputs: Any, y: Tensor) -> Tensor:
        return y * ~voxels(blocks, y.shape[2:])

    def gathered(layer: Any, inputs: Any, y: Tensor) -> Tensor:
        x, result = inputs[0].movedim(1, -1), torch.zeros_like(inputs[0]).movedim(1, -1)
        visible = ~voxels(blocks, inputs[0].shape[2:])[:, 0]
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            result[visible] = F.batch_norm(x[visible], None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
        else:
            groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else layer.num_features
            for sample in range(len(x)):  # group_norm of [1, C, n]
                some = x[sample][visible[sample]].T[None]
                result[sample][visible[sample]] = F.group_norm(some, groups, layer.weight, layer.bias, layer.eps)[0].T
        added = sum(each for each in inputs[1:] if each is not None)
        return getattr(layer, "act", nn.Identity())(result.movedim(-1, 1) + added)

    norms = nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm | nn.GroupNorm
    for layer in encoder.modules():
        if isinstance(layer, norms):
            layer.register_forward_hook(gathered)
        elif isinstance(layer, nn.Conv2d | nn.Conv3d | nn.MaxPool2d | nn.AvgPool2d):
            layer.register_forward_hook(zeroed)
    return encoder
