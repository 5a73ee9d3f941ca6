"""``torchrun started.py``: memory that processes need at their peaks for a network of 200 MB under FSDP2."""

import json
import re
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import nn

from dira_scale.base.config.compose import compose
from dira_scale.train.distributed.control import gather_objects
from dira_scale.train.distributed.processes import start
from dira_scale.train.engine import parallel
from dira_scale.train.models.cut import built
from dira_scale.train.models.momentum import local_shard, local_start, momentum_copy


class Followed(nn.Module):
    """``layers`` of 8 MB, each a group of FSDP2's, of 203 MB with the averages that follow them."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        # Rows that 4 divide: FSDP2 copies those that it pads, a group at a time.
        self.trained = nn.ModuleList(nn.Sequential(nn.Linear(2048, 1032), nn.GELU()) for _ in range(layers))
        self.average = momentum_copy(self.trained)


def in_memory(kind: str) -> int:
    return 1024 * int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    words = ["experiment=small", "precision=fp32", "data.shards=none", "parallel.threads=1", "parallel=fsdp2"]
    config = OmegaConf.to_object(compose("pretrain", words))
    world, peaks = start(config.parallel, config.precision), {}
    for layers in (1, 12):  # first what any network needs
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = in_memory("VmRSS")
        torch.manual_seed(0)
        share = parallel.share(world, config.parallel, lambda layers=layers: [Followed(layers)])
        module = built(lambda layers=layers: Followed(layers), share)
        strategy = parallel.build(world, config.parallel, module)
        starts = {name: local_start(parameter) for name, parameter in module.named_parameters()}
        held = sum(local_shard(parameter).nbytes for parameter in module.parameters())
        for _ in range(3):
            model = strategy.begin(lambda module: module, lambda module: torch.optim.SGD(module.parameters()))
            assert {name: local_start(parameter) for name, parameter in model.module.named_parameters()} == starts
            strategy.end(model)
        peaks["stages"] = in_memory("VmHWM") - before
        model = strategy.begin(lambda module: module, lambda module: torch.optim.SGD(module.parameters()))
        gathered = model.unsharded()
        peaks["gathered"] = in_memory("VmHWM") - before
        del model
    if world.main:
        torch.manual_seed(0)
        whole = Followed(12)
        assert all(map(torch.equal, whole.state_dict().values(), gathered.state_dict().values()))
    each = gather_objects(peaks | {"share": held, "largest": max(p.nbytes for p in gathered.parameters())})
    if world.main:
        print("PEAKS " + json.dumps(each), flush=True)
    world.end()


if __name__ == "__main__":
    main()
