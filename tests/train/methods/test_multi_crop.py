"""A method of several kinds of crops, DINO, in two and three dimensions, from the loader to its teacher."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_run import write
from train.data.volumes import make, random_volumes
from train.models.stub3d import TARGET as TINY3D

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.fleet.forecast.network import fake_task
from dira_scale.fleet.forecast.rehearsal import rehearse
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.objective import Objective
from dira_scale.train import methods
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import Order
from dira_scale.train.distributed.world import World

WORLD = World(SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0), "fp32")  # type: ignore[arg-type]
CROPS = "[{count: 2, scale: [0.4, 1]}, {size: 32, count: 3, scale: [0.05, 0.4], blur: {p: 0.1}, cutout: {p: 0.0}}]"
METHOD = ["method=dino", "method.prototypes=16", "method.hidden=16", "method.bottleneck=8", "method.frozen=0"]
WORDS = ["data.shards=none", *METHOD, "stages.dir.epochs=0", "stages.dira.epochs=0", "stages.di.terms=[di]",
         "data.batch=4", "model.bn_groups=1", "precision=fp32"]  # fmt: skip
PLANE = [*WORDS, "data.size=64", f"views.crops={CROPS}"]
VOLUME = [*WORDS, "views=volume", "data.size=[16,16,16]", f"model._target_={TINY3D}", "+model.width=4",
          *(f"~model.{key}" for key in ("encoder", "decoder_channels", "zero_init_residual")),
          "views.crops=[{count: 2}, {size: [8, 8, 8], count: 2, extents: [[6, 8, 8]], corruptions: {}}]"]  # fmt: skip


def step(words: list[str], dataset: ShardedDataset) -> tuple[Any, float]:
    """A method before and after a step on a loader's batch, and its loss."""
    cfg = compose("pretrain", words)
    views = methods.views_of(cfg)
    torch.manual_seed(0)
    method = methods.build(cfg.method, cfg.model, views, batch=4).train()
    order = Order((len(dataset.rows("train")),), 1, 4)
    (batch,) = CpuLoader(LoaderSpec([dataset], "train", order, views, 0)).iterate(0, 1)
    assert [view.shape[2:] for view in batch.views] == [view.sides for view in views.each]
    objective = Objective(method.weights, None, views, WORLD)  # type: ignore[arg-type]
    losses = objective(method, batch.to("cpu"), ["di"])
    losses.total.backward()
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    method.after_step()
    assert any(not torch.equal(a, b) for a, b in zip(before, method.teacher.parameters(), strict=True))
    return method, losses.total.item()


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit"])
def test_a_step_on_images(encoder: str, tmp_path: Path) -> None:
    method, loss = step([*PLANE, f"model.encoder={encoder}"], ShardedDataset.open(write(tmp_path / "toy")))
    assert loss > 0 and [view.sides[0] for view in method.views.each] == [64, 64, 32, 32, 32]


def test_a_step_on_volumes(tmp_path: Path) -> None:
    method, loss = step(VOLUME, make(tmp_path / "toy", random_volumes(4)))
    assert loss > 0 and [view.sides for view in method.views.each] == 2 * [(16,) * 3] + 2 * [(8,) * 3]


def test_a_plan_counts_every_crop() -> None:
    """One more of the small ones adds to the floating-point operations, and the batch has its own sizes."""

    def flops(count: int) -> float:
        crops = f"views.crops=[{{count: 2}}, {{size: 32, count: {count}}}]"
        fake = fake_task(PretrainBlueprint(compose("pretrain", [*PLANE, "model.encoder=test_resnet", crops])))
        assert [view.shape[-1] for view in fake.batch(4).views] == [64] * 2 + [32] * count  # type: ignore[attr-defined]
        done = rehearse(fake, fake.stages[0], 4, 1, gpu=False)
        return (done.forward + done.backward).flops

    assert flops(2) > flops(1)


def test_what_does_not_fit_is_refused_without_data() -> None:
    """Sizes that the network does not take, and methods of two views of one size."""
    for words, message in (
        ([*PLANE, "model.encoder=test_resnet", "views.crops=[{}, {size: 40}]"],
         r"^views\.crops\[1\]\.size=40: expected 32: "),
        (["data.shards=none", "data.size=64", "views.crops=[{count: 1}, {size: 32, count: 1}]"],
         r"^views\.crops: expected crops of one size: MoCo compares two views"),
        (["data.shards=none", "views=volume", "model=unet3d", "data.size=[16,16,16]",
          *METHOD, "views.crops=[{}, {size: [12, 16, 16]}]"],
         r"^views\.crops\[1\]\.size=\[12, 16, 16\]: expected multiples of 8, such as \[8, 16, 16\] or"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            PretrainBlueprint(compose("pretrain", words)).check(ranks=1)
