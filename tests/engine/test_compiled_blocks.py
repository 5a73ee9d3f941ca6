"""``parallel.compile``: each block of each network is one graph, without a break, BatchNorm's groups within."""

from typing import Any

import pytest
import torch
import torch._dynamo
from models.volumes import network
from torch import nn

from dira_scale.config.compose import compose
from dira_scale.engine.parallel.recompute import blocks
from dira_scale.models.architecture import architecture
from dira_scale.models.norm import convert

NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "test_resnet": ((32, 32), {}),
    "test_vit": ((32, 32), {}),
    "unet3d": ((8, 16, 16), {"width": 0.25}),
    "resenc_l": ((8, 16, 16), {"features": "[4,8,8]", "blocks": "[1,1,1]"}),
}


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    size, keys = NETWORKS[name]
    if len(size) == 3:
        return network(name, size, **keys), torch.rand(8, 1, *size)
    words = f"model.encoder={name}", "model.decoder_channels=[16,16,8,8,8]"
    model = architecture(compose("pretrain", ["data.shards=any", *words]).model)
    return model.build_network(model.build_encoder(size[0])), torch.rand(8, 1, *size)


@pytest.mark.system
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_is_one_graph(name: str, groups: int) -> None:
    """``fullgraph`` raises at a break; the graph, run by torch itself, gives the plain block's gradients."""
    torch.manual_seed(0)
    module, x = built(name)
    convert(module, groups).train()
    gradients = list[list[torch.Tensor]]()
    for compiled in (False, True):
        torch._dynamo.reset()
        for block in blocks(module) if compiled else []:
            block.compile(dynamic=False, fullgraph=True, backend="eager")
        module.zero_grad()
        module(x).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None])
    assert len(blocks(module)) >= 4 and len(gradients[0]) == len(list(module.parameters()))
    for plain, compiled_one in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, compiled_one, atol=1e-6, rtol=1e-4)
