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
from torch.utils._pytree import tree_leaves

from benchmarks import synthetic
from benchmarks.gpu.loops import Ours
from benchmarks.gpu.rungs import NETWORKS, TINY

NETWORK = "MoCo ResNet-50"


@pytest.mark.parametrize(
    ("strategy", "wanted"), [("ddp", True), ("ddp", False), ("fsdp2", True), ("fsdp2", False), ("zero2", True)]
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
    loop = Ours(*synthetic.configuration(*NETWORKS[NETWORK], *TINY[NETWORK], "model.bn_groups=2", *keys))
    actual: dict[str, list[bool]] = {}

    def note(part: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            for x in tree_leaves(output):
                if isinstance(x, Tensor) and x.dim() == 4 and x.shape[1] > 1 and x.shape[2] > 1:
                    actual.setdefault(part, []).append(x.is_contiguous(memory_format=torch.channels_last))

        return hook

    for name, module in loop.stage.model.module.named_modules():
        part = next((part for part in ("base.encoder", "base.key_encoder", "decoder") if name.startswith(part)), None)
        if part and not list(module.children()):
            module.register_forward_hook(note(part))
    loop.step(0)
    return actual


if __name__ == "__main__":
    print(json.dumps(layouts(*sys.argv[1:])))
