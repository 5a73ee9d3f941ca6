"""Feature maps are channels last in memory: convolutions of the other layout are slower on GPUs."""

from typing import Any

import pytest
import torch
from torch.nn.modules.instancenorm import _InstanceNorm
from train.models.volumes import network

from dira_scale.fleet.forecast.network import fake_world
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.engine.parallel.strategy import Sharded, Strategy

SIZE = (8, 32, 32)
VOLUMES: list[Any] = [
    ("unet3d", {"width": 0.25}, True),
    pytest.param("unet3d", {"width": 0.25, "norm": "instance"}, False, marks=pytest.mark.system),
    pytest.param("unet3d", {"width": 0.25, "norm": "group"}, False, marks=pytest.mark.system),
    ("resenc_l", {"features": "[8,16,16]", "blocks": "[1,1,1]"}, False),
]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("name", "keys", "wanted"), VOLUMES)
def test_by_default_maps_of_volumes_are_channels_last_where_all_layers_keep_them_so(
    name: str, keys: dict[str, Any], wanted: bool, sharded: bool
) -> None:
    """One channel has no layout by itself, nor do contiguous weights, which sharded ones are, give one."""
    given = Parallel("ddp", 1, 1, checkpoint_activations=False, channels_last=None, compile=False, offload=False)
    module, world = network(name, SIZE, **keys), fake_world("fp32")

    def kept(*parts: Any) -> Any:
        return parts[2]

    if sharded:
        kind: Any = kept  # what a sharded kind gets, before it needs other processes
        model: Any = Sharded(world, given, module, kind).begin(kept, kept)
    else:
        model = Strategy(world, given, module).module
    layouts = list[bool]()
    for layer in model.modules():
        if not list(layer.children()) or isinstance(layer, _InstanceNorm):
            layer.register_forward_hook(lambda _, x, y: layouts.append(y.stride(1) == 1) if y.shape[1] > 1 else None)
    model(torch.rand(2, 1, *SIZE)).sum().backward()
    assert len(layouts) > 20 and set(layouts) == {wanted}
