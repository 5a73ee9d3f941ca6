"""Activation checkpointing of the networks of volumes: the two finest resolutions, and nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from train.models.volumes import network

from dira_scale.train.engine.parallel import checkpoint_activations
from dira_scale.train.models.network import moved
from dira_scale.train.models.norm import commit_statistics, convert

# Network, size of its volumes, keys, and a convolution that stays as it is: of the finest blocks, of the coarser ones.
SMALL = {
    "unet3d": ((16, 16, 16), {"width": 0.125}, "levels.0.1.conv", "levels.2.1.conv"),
    "resenc_l": ((16, 16, 16), {"features": "[4,4,8,8]", "blocks": "[1,1,1,1]"}, "stages.1.blocks.0.conv2.conv",
                 "stages.2.blocks.0.conv2.conv"),
    "swinunetr": ((32, 32, 64), {"feature_size": 12}, "encoder2.layer.conv2.conv", "encoder3.layer.conv2.conv"),
}  # fmt: skip


def trained(name: str, recompute: bool, channels_last: bool) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Gradients and buffers of one step, and how often each convolution ran."""
    size, keys, *_ = SMALL[name]
    module = moved(convert(network(name, size, **keys), groups=2).train(), torch.device("cpu"), channels_last)
    counts: dict[str, int] = {}
    for key, layer in module.named_modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(lambda *_, key=key: counts.update({key: counts.get(key, 0) + 1}))
    if recompute:
        checkpoint_activations(module)
    module(torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    commit_statistics(module)
    gradients = {key: parameter.grad for key, parameter in module.named_parameters() if parameter.grad is not None}
    assert len(gradients) == len(list(module.parameters()))
    return gradients | dict(module.named_buffers()), counts


@pytest.mark.parametrize(
    ("name", "channels_last"),
    [("unet3d", True), ("resenc_l", True), pytest.param("swinunetr", True, marks=pytest.mark.torture)],
)
def test_the_finest_blocks_are_computed_twice_and_gradients_are_the_same(name: str, channels_last: bool) -> None:
    (plain, once), (recomputed, twice) = (trained(name, recompute, channels_last) for recompute in (False, True))
    assert set(once.values()) == {1}
    *_, finest, coarser = SMALL[name]
    assert twice[f"encoder.{finest}"] == 2 and twice[f"encoder.{coarser}"] == 1
    assert [key for key in plain if not torch.equal(plain[key], recomputed[key])] == []
