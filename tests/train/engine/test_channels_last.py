"""Feature maps are channels last in memory under every strategy: convolutions of the other layout are slower on GPUs.

Run by pytest this file starts itself: ``test_channels_last.py STRATEGY true|false`` prints, as JSON, the layout of each
network's maps in a training step.
"""

import json
import sys
from typing import Any

import pytest
import torch
from harness import finish, require_strategy
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_leaves
from train.models.volumes import network

from benchmarks.gpu.loops import Ours
from benchmarks.gpu.recipes import words
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
        model: Any = Sharded(world, given, module, kind).begin(kept, kept, {})
    else:
        model = Strategy(world, given, module).module
    layouts = list[bool]()
    for layer in model.modules():
        if not list(layer.children()) or isinstance(layer, _InstanceNorm):
            layer.register_forward_hook(lambda _, x, y: layouts.append(y.stride(1) == 1) if y.shape[1] > 1 else None)
    model(torch.rand(2, 1, *SIZE)).sum().backward()
    assert len(layouts) > 20 and set(layouts) == {wanted}


REST = [("ddp", False), ("fsdp2", False), ("zero2", True)]


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [("ddp", True), ("fsdp2", True), *(pytest.param(*case, marks=pytest.mark.system) for case in REST)],
)
def test_maps_have_the_layout_that_is_configured(strategy: str, wanted: bool) -> None:
    require_strategy(strategy)
    printed = finish([sys.executable, __file__, strategy, str(wanted).lower()])
    actual: dict[str, list[bool]] = json.loads(printed.splitlines()[-1])
    assert len(actual["base.encoder"]) > 10 and len(actual["base.key_encoder"]) > 10 and len(actual["decoder"]) > 10
    other = {part: layouts.count(not wanted) for part, layouts in actual.items() if (not wanted) in layouts}
    assert other == {}


def layouts(strategy: str, channels_last: str) -> dict[str, list[bool]]:
    """By network: of every map that a layer without parts returns, whether it is channels last."""
    keys = f"parallel={strategy}", f"parallel.channels_last={channels_last}", "data.batch=4", "data.size=64"
    loop = Ours(*words("dira_moco", True), "model.bn_groups=2", *keys)
    actual: dict[str, list[bool]] = {}

    def note(part: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            for x in tree_leaves(output):
                if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] > 1 and x.shape[2] > 1:
                    actual.setdefault(part, []).append(x.is_contiguous(memory_format=torch.channels_last))

        return hook

    for name, module in loop.model.module.named_modules():
        part = next((part for part in ("base.encoder", "base.key_encoder", "decoder") if name.startswith(part)), None)
        if part and not list(module.children()):
            module.register_forward_hook(note(part))
    loop.step(0)
    return actual


if __name__ == "__main__":
    print(json.dumps(layouts(*sys.argv[1:])))
