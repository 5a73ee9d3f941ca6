"""MoCo's key shuffle over processes, strategies and micro-batches, against its formula written out for one process.

Run by torchrun this file trains: ``test_shuffle.py OUT KEY=VALUE …``.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from harness import finish, require_strategy
from omegaconf import OmegaConf
from torch import Tensor

from dira_scale import methods
from dira_scale.config.compose import compose
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.collectives import rank, reduce_mean, world
from dira_scale.distributed.processes import start
from dira_scale.engine import optim, parallel
from dira_scale.methods.moco import MoCo
from dira_scale.methods.shuffle import permutation, transposition
from dira_scale.models.encoder import build_encoder
from dira_scale.models.norm import commit_statistics
from dira_scale.pretrain.objective import Forward

BATCH, STEPS, SIZE = 32, 2, 64
MOCO = {"dim": 16, "queue": 64, "temperature": 0.5, "momentum": 0.9}
SETTINGS = ["method=moco", "model.encoder=test_resnet", "optim=sgd_moco", "optim.optimizer.lr=1e-2", "data.shards=none"]
SETTINGS += [f"data.batch={BATCH}", "parallel.threads=1", "parallel.channels_last=false", "precision=fp32"]
SETTINGS += [f"method.{name}={value}" for name, value in MOCO.items()]


def images(step: int) -> tuple[Tensor, Tensor]:
    """Two views of the global batch, [B, 1, S, S]: the same pictures under different noise."""
    generator = torch.Generator().manual_seed(step)
    coarse = torch.rand(BATCH, 1, 4, 4, generator=generator)
    clean = F.interpolate(coarse, size=SIZE, mode="bilinear")
    first, second = (clean + 0.3 * torch.rand(clean.shape, generator=generator) for _ in range(2))
    return first, second


def train(overrides: list[str]) -> dict[str, Tensor]:
    """What a strategy makes of it: the losses of all micro-batches, and the method whole."""
    cfg = compose("pretrain", [*SETTINGS, *overrides])
    config: Any = OmegaConf.to_object(cfg)
    world_, accumulate = start(config.parallel, config.precision), config.parallel.accumulate
    torch.manual_seed(0)
    method = methods.build(cfg.method, cfg.model, ViewSpec(size=SIZE), BATCH, accumulate)
    strategy = parallel.build(world_, config.parallel, method)

    def prepare(module: Any) -> Any:
        module.enter_stage(["di"])
        return Forward(module)

    model = strategy.begin(prepare, lambda module: optim.stage_optimizer(config.optim, module, BATCH), {})
    losses = []
    for step in range(STEPS):
        parts = (view.chunk(world())[rank()].chunk(accumulate) for view in images(step))
        for micro, pair in enumerate(zip(*parts, strict=True)):
            with model.accumulating(micro == accumulate - 1):
                loss = model.wrapped(pair, pair, SimpleNamespace(step=step)).losses["di"]
                model.backward(loss / accumulate)
            losses.append(reduce_mean(loss))
        model.step()
        commit_statistics(model.module)
        model.module.after_step()
    state = {name.removeprefix("module."): part.whole() for name, part in model.pieces().items()}
    world_.end()
    return state | {"losses": torch.stack(losses)}


def fresh() -> MoCo:
    """As every process starts; BatchNorm is torch's own."""
    torch.manual_seed(0)
    return MoCo(build_encoder("test_resnet", size=SIZE), ViewSpec(size=SIZE), **MOCO).train()


def formula(ranks: int, accumulate: int, groups: int, shuffle: str) -> dict[str, Tensor]:
    """The step by plain torch: every BatchNorm group goes through the network by itself."""
    moco, losses = fresh(), []
    optimizer = torch.optim.SGD(
        [*moco.encoder.parameters(), *moco.projector.parameters()], lr=1e-2, momentum=0.9, weight_decay=1e-4
    )

    def embed(encoder: Any, projector: Any, batch: Tensor) -> Tensor:
        parts = batch.chunk(groups // accumulate)
        return torch.cat([F.normalize(projector(encoder(part)[-1]), dim=1) for part in parts])

    for step in range(STEPS):
        first, second = images(step)
        latest = torch.empty(BATCH, MOCO["dim"])
        optimizer.zero_grad()
        for micro in range(accumulate):
            rows = torch.cat([part.chunk(accumulate)[micro] for part in torch.arange(BATCH).chunk(ranks)])
            moved = {
                "": torch.arange(len(rows)).numpy(),
                "batch": permutation(len(rows), step, micro),
                "blocks": transposition(len(rows), groups // accumulate),
            }
            order = torch.from_numpy(moved[shuffle])
            with torch.no_grad():
                latest[rows[order]] = embed(moco.key_encoder, moco.key_projector, second[rows[order]])
            queries, keys = embed(moco.encoder, moco.projector, first[rows]), latest[rows]
            similar = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ moco.queue.T], dim=1)
            loss = F.cross_entropy(similar / MOCO["temperature"], torch.zeros(len(rows), dtype=torch.long))
            (loss / accumulate).backward()
            losses.append(loss.detach())
        optimizer.step()
        pairs = [(moco.key_encoder, moco.encoder), (moco.key_projector, moco.projector)]
        with torch.no_grad():
            for key, query in ((k, q) for pair in pairs for k, q in zip(*(m.parameters() for m in pair), strict=True)):
                key.copy_(MOCO["momentum"] * key + (1 - MOCO["momentum"]) * query)
            moco.queue[step * BATCH : (step + 1) * BATCH] = latest
    trained = {name: parameter.detach() for name, parameter in moco.named_parameters()}
    return trained | {"queue": moco.queue, "losses": torch.stack(losses)}


@pytest.mark.parametrize(
    ("strategy", "accumulate", "groups", "shuffle"),
    [
        pytest.param("fsdp2", 2, 8, "blocks", marks=pytest.mark.system),
        *(
            pytest.param(*case, marks=pytest.mark.torture)
            for case in (
                ("ddp", 1, 4, "blocks"), ("ddp", 1, 16, "blocks"), ("ddp", 2, 4, "batch"), ("fsdp2", 1, 4, "batch"),
                ("zero1", 2, 4, "blocks"), ("zero2", 2, 8, "batch"), ("zero3", 1, 4, "blocks"),
                ("zero3", 2, 4, "batch"), ("zero3", 2, 8, "blocks"),
            )
        ),
    ],
)  # fmt: skip
def test_two_processes_compute_the_formula(
    strategy: str, accumulate: int, groups: int, shuffle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, queue, networks and momentum networks after two steps. The shuffle shows in what is compared."""
    require_strategy(strategy)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    keys = [f"parallel={strategy}", f"parallel.accumulate={accumulate}", f"model.bn_groups={groups}"]
    keys.append(f"method.shuffle={shuffle}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # of the harness
    finish([*launch, str(tmp_path / "found.pt"), *keys])
    trained, expected = torch.load(tmp_path / "found.pt"), formula(2, accumulate, groups, shuffle)
    unshuffled, start = formula(2, accumulate, groups, ""), fresh().state_dict()
    torch.testing.assert_close(trained["losses"], expected["losses"], rtol=1e-5, atol=0)
    assert (unshuffled["losses"] - expected["losses"]).abs().min() > 1e-4 * expected["losses"].max()
    for name in expected.keys() - {"losses"}:
        value = expected[name]
        error, other, moved = ((x - value).norm() for x in (trained[name], unshuffled[name], start[name]))
        print(f"{name}: {error / moved:.1e} of {moved:.1e}; without the shuffle {other / moved:.1e}")
        bound = 0.002 * moved + 1e-7 * value.norm()  # the latter is how a momentum network's small steps are stored
        assert error < bound < 0.1 * other, name


if __name__ == "__main__":
    tensors = train(sys.argv[2:])
    if os.environ["RANK"] == "0":
        torch.save(tensors, sys.argv[1])
