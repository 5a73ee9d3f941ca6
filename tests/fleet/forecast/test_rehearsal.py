"""The rehearsed step against formulas by hand; tests/system/test_plan.py holds it against real runs."""

from functools import cache
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from harness import TINY
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from train.data.volumes import WORDS
from train.engine.regression import BATCH, FEATURES, STAGES, Regression, Shapes
from train.models.volumes import network

from dira_scale.base.config.compose import compose
from dira_scale.fleet.forecast.ledger import CollectiveMessage, Ledger
from dira_scale.fleet.forecast.network import FakeTask, fake_task, fake_world, one_rank_of, without_memory
from dira_scale.fleet.forecast.rehearsal import Rehearsal, rehearse
from dira_scale.fleet.forecast.strategies import largest, memory
from dira_scale.fleet.forecast.work import work_of
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.config import Pretrain
from dira_scale.train.engine.parallel import checkpoint_activations, recompute
from dira_scale.train.models import norm


@cache
def rehearsed(*keys: str, ranks: int = 1, stage: str = "di", images: int = 0) -> Rehearsal:
    cfg = compose("pretrain", [*TINY, "data.shards=none", "precision=fp32", *keys])
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    with one_rank_of(ranks):
        fake = fake_task(PretrainBlueprint(cfg))
        if config.parallel.checkpoint_activations:
            checkpoint_activations(fake.task.module)
        plan = next(plan for plan in fake.stages if plan.name == stage)
        return rehearse(fake, plan, images or config.data.batch // ranks, config.parallel.accumulate, gpu=False)


def test_a_small_network_by_hand() -> None:
    """Two layers on 8 x 100 numbers: the ReLU keeps its output, which the second layer keeps too: counted once."""
    with FakeTensorMode():
        net = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 20, bias=False))
        x = torch.empty(8, 100)
        ledger = Ledger(net.parameters())
        ledger.ignore([x])
        with ledger:
            loss = net(x).sum()
            seen, moved = len(ledger.live_bytes), ledger.work.moved
            loss.backward()
            torch.empty(0)  # gradients are noted with the operation after them
    hidden, out, scalar = 4 * 8 * 50, 4 * 8 * 20, 4
    assert max(moment.others for moment in ledger.live_bytes[:seen]) == 2 * hidden  # while the ReLU computes
    assert ledger.live_bytes[seen - 1].others == hidden + out + scalar  # while the sum computes
    assert ledger.live_bytes[-1].gradients == 4 * (100 * 50 + 50 * 20)
    products = 8 * 100 + 100 * 50 + 8 * 50, 8 * 50 + 50 * 20 + 8 * 20
    assert moved == 4 * (sum(products) + 2 * 8 * 50 + 8 * 20 + 1)  # the transposed weights are views
    assert ledger.work.flops == 2 * 8 * (2 * 100 * 50 + 3 * 50 * 20)  # the images need no gradient


def test_bytes_moved_by_hand() -> None:
    """Twice the same, in place, several tensors at once, a scalar that is broadcast, a view, memory without values, a
    view, a product and a sum: as many operations as torch dispatches, and none that tensors without memory ask of one
    another."""
    with FakeTensorMode():
        x, y = torch.empty(3, 1000), torch.empty(3, 1000)
        one, rows = torch.empty(()).expand(3, 1000), [*torch.empty(2, 1000).clone().split(1)]
        for run, expected in (
            (lambda: x + y, 36_000), (lambda: x * x, 24_000), (lambda: x.add_(y), 36_000),
            (lambda: x + one, 24_004), (lambda: x.view(-1), 0),
            (lambda: torch._foreach_mul_(rows, 2.0), 16_000), (lambda: torch.empty_like(x), 0),
            (lambda: x.mm(y.t()).sum(), 4 * (6000 + 9 + 9 + 1)),
        ):  # fmt: skip
            with Ledger([]) as ledger:
                run()
            assert ledger.work.moved == expected
        assert ledger.operations == 3


NCHW, NHWC = torch.contiguous_format, torch.channels_last


@pytest.mark.parametrize(
    ("make", "samples", "layout", "forward", "backward"),
    [
        (lambda: nn.BatchNorm2d(66), 8, NHWC, (3, 0), (5, 0)),
        (lambda: nn.BatchNorm2d(66), 8, NCHW, (3, 7), (5, 5 * 7)),  # 66 blocks find statistics, 528 make a map
        (lambda: nn.BatchNorm2d(66).eval(), 8, NHWC, (2, 0), (3, 0)),
        (lambda: nn.InstanceNorm2d(66), 8, NCHW, (3, 0), (5, 0)),
        (lambda: nn.InstanceNorm2d(66), 1, NCHW, (3, 3 * 7), (5, 5 * 7)),
        (lambda: nn.GroupNorm(6, 66), 8, NCHW, (3, 10), (5, 0)),  # 48 blocks find statistics
        (lambda: nn.LayerNorm((32, 32)), 8, NCHW, (2, 0), (5, 0)),
        (lambda: nn.Conv2d(66, 66, 1, bias=False), 8, NHWC, (2, 0), (4, 0)),
        (lambda: nn.Conv2d(66, 66, 1), 8, NHWC, (4, 0, 2), (5, 0, 1)),  # a kernel adds the bias, one sums its gradient
    ],
)
def test_maps_that_norms_and_convolutions_pass_by_hand(
    make: Any, samples: int, layout: torch.memory_format, forward: tuple[int, ...], backward: tuple[int, ...]
) -> None:
    """A norm passes its input twice, backward also what comes back; a convolution passes that for either gradient. And
    how many maps could be moved beside, in the room of 528 blocks, and how many other kernels move."""
    with FakeTensorMode():
        net, x = make(), torch.empty(samples, 66, 32, 32).to(memory_format=layout).requires_grad_()
        with Ledger([]) as first:
            y = net(x)
        with Ledger([]) as then:
            y.backward(torch.empty_like(y))
    size = 4 * x.numel()
    for ledger, expected in ((first, forward), (then, backward)):
        actual = ledger.work.moved / size, ledger.work.idle / size, ledger.work.others / size
        assert actual == pytest.approx((*expected, 0)[:3], rel=0.02, abs=0.01)


def test_a_step_on_volumes() -> None:
    """On the tests' own network: with twice the depth, twice the multiplications of its convolutions."""

    def forward(depth: int) -> float:
        words = [*WORDS, "data.shards=none", f"data.size=[{depth},16,16]", "data.batch=4", "precision=fp32"]
        cfg = compose("pretrain", words)
        fake = fake_task(PretrainBlueprint(cfg))
        views = fake.batch(4).views
        assert [view.shape for view in views] == 2 * [(4, 1, depth, 16, 16)]
        return rehearse(fake, fake.stages[0], 4).forward.flops

    assert 1.5 < forward(32) / forward(16) <= 2


def test_a_unet_of_volumes_by_hand() -> None:
    """At a quarter of its width: 8 to 128 channels. Numbers and operations for each voxel of two volumes."""

    def passed(recompute: bool) -> tuple[float, float, float]:
        with FakeTensorMode():
            net, volumes = network("unet3d", (16, 32, 32), width=0.25).train(), torch.empty(2, 1, 16, 32, 32)
            if recompute:
                checkpoint_activations(net)
            ledger = Ledger(net.parameters())
            ledger.ignore([volumes, *net.buffers()])
            with ledger:
                loss = net(volumes).sum()
                kept, forward = ledger.live_bytes[-1].others / 4 / volumes.numel(), ledger.work.flops / volumes.numel()
                loss.backward()
        return kept, forward, ledger.work.flops / volumes.numel() - forward

    levels = ((1, 8, 16), (16, 16, 32), (32, 32, 64), (64, 64, 128))
    steps = ((128, 64), (64, 32), (32, 16))  # coarse channels, skip: at 1/64, 1/8 and all of the voxels
    encoder = [27 * (a * b + b * c) / 8**i for i, (a, b, c) in enumerate(levels)]
    decoder = [(a * a + 27 * ((a + b) * b + b * b)) / 8 ** (2 - i) for i, (a, b) in enumerate(steps)]
    # Of each convolution its output and the normalised one; where maps are halved, the largest and where it was, in 8
    # bytes; before the first convolution of each step up the concatenated maps; the logits.
    maps = [2 * (b + c) / 8**i for i, (_, b, c) in enumerate(levels)]
    halved = sum(3 * levels[i][2] / 8 ** (i + 1) for i in range(3))
    up = [(a + b + 4 * b) / 8 ** (2 - i) for i, (a, b) in enumerate(steps)]
    kept, forward, backward = passed(recompute=False)
    assert kept == pytest.approx(sum(maps) + halved + sum(up) + 1, abs=0.05)
    assert forward == 2 * (sum(encoder) + sum(decoder) + 16)
    assert backward == 2 * forward - 2 * 27 * 8  # the volumes need no gradient
    spared, same, more = passed(recompute=True)  # of the two finest levels and steps only what they return
    assert spared == pytest.approx(16 + 32 / 8 + sum(maps[2:]) + halved + up[0] + 32 / 8 + 16 + 1, abs=0.05)
    assert (same, more) == (forward, backward + 2 * sum([*encoder[:2], *decoder[1:]]))


@pytest.mark.parametrize("groups, collectives", [(2, 2 * 20), (4, 0)])
def test_a_group_of_batch_norm_over_ranks_costs_two_messages_and_few_operations_a_layer(
    groups: int, collectives: int
) -> None:
    """A ResNet-18 has 20 layers; on one of 4 ranks, forward and backward in bf16, no copy in fp32 is kept."""

    def passed(ranks: int, groups: int) -> Ledger:
        mode = FakeTensorMode()
        with one_rank_of(ranks):
            with torch.device("meta"):
                net = norm.convert(timm.create_model("resnet18", num_classes=0), groups)
            without_memory(net, mode, channels_last=True)
            with mode, torch.autocast("cpu", torch.bfloat16), Ledger(net.parameters()) as ledger:
                net(torch.empty(8, 3, 64, 64)).sum().backward()
        return ledger

    alone, spread = passed(1, 1), passed(4, groups)
    assert len(spread.collectives) == collectives
    assert spread.operations <= alone.operations + 20 * 16
    peak = [max(live.others for live in ledger.live_bytes) for ledger in (alone, spread)]
    assert peak[1] <= 1.05 * peak[0]


def test_collectives_of_moco_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank's images change places, their keys come back and go to all, statistics and a term are averaged."""
    monkeypatch.setattr(recompute, "GROUP", 1)
    step = rehearsed("data.size=32", ranks=2)
    images, keys = 4 * 32 * 32 * 4, 8 * 128 * 4
    assert [c for c in step.collectives if c.kind == "all_to_all"] == [
        CollectiveMessage("all_to_all", images, 2), CollectiveMessage("all_to_all", keys // 2, 2),
    ]  # fmt: skip
    assert CollectiveMessage("gather", keys, 2, asynchronous=True) in step.collectives
    # Mean, variance and a count of every BatchNorm: 20 of a ResNet-18 and the projector's, twice; ten of the decoder.
    encoder, projector, decoder = 64 + 4 * 64 + 5 * (128 + 256 + 512), 512, 2 * (32 + 16 + 16 + 8 + 8)
    statistics = 4 * (2 * (2 * (encoder + projector) + 4 * 21) + 2 * decoder + 4 * 10)
    assert CollectiveMessage("all_reduce", statistics, 2) in step.collectives
    # A group of the encoder is passed with gradient, its momentum network's without, the decoder's by nobody.
    assert {(group.learning, group.looking) for group in step.groups} == {(1, 0), (0, 1), (0, 0)}


def test_messages_of_eight_ranks_by_hand() -> None:
    """Rank 0 of 8: a gather awaited later; parts from and to ranks 1 and 3 alone; equal parts; a group of four."""
    with one_rank_of(8), FakeTensorMode(), Ledger([]) as ledger:
        part, whole = torch.empty(4, 5), torch.empty(32, 5)
        work = dist.all_gather_into_tensor(whole, part, async_op=True)
        assert work is not None
        work.wait()
        dist.all_to_all_single(torch.empty(4, 5), part, [0, 4, 0, 0, 0, 0, 0, 0], [0, 1, 0, 3, 0, 0, 0, 0])
        dist.all_to_all_single(torch.empty(8, 5), torch.empty(8, 5))
        dist.all_reduce(part, group=dist.new_group(range(4)))
    assert ledger.collectives == [
        CollectiveMessage("gather", 4 * 32 * 5, 8, asynchronous=True),
        CollectiveMessage("all_to_all", 4 * 4 * 5, 3),
        CollectiveMessage("all_to_all", 4 * 8 * 5, 8),
        CollectiveMessage("all_reduce", 4 * 4 * 5, 4),
    ]


NARROW = "model.encoder=test_resnet"  # where no count is compared, for its time
PCRL = ("method=pcrl", "views=pcrl", "~method.base", "method.queue=64", "data.size=32", "stages.dira.epochs=0")


def test_collectives_of_pcrl_by_hand() -> None:
    """A rank's images change places, and what the momentum encoder makes of them comes back, level by level."""
    step = rehearsed(*PCRL, ranks=2, stage="dir")
    values = [32 * 32, 64 * 16 * 16, 64 * 8 * 8, 128 * 4 * 4, 256 * 2 * 2, 512, 128]  # of an image, five maps, its key
    expected = [CollectiveMessage("all_to_all", 4 * 4 * count, 2) for count in values]
    assert [c for c in step.collectives if c.kind == "all_to_all"] == expected
    keys = CollectiveMessage("gather", 8 * 3 * 128 * 4, 2, asynchronous=True)  # o, m and h of all images
    assert keys in step.collectives


def test_optimizer_states_by_hand() -> None:
    """AdamW: two live_bytes and a count; SGD with momentum, LARS: one."""
    names = "adamw", "sgd_moco", "lars_byol"
    adam, sgd, lars = (rehearsed(f"optim={name}", "optim.warmup_epochs=0", NARROW) for name in names)
    tensors = (adam.optimizer - 2 * adam.trained) / 4
    assert tensors == len([*timm.create_model("test_resnet", num_classes=0).parameters()]) + 5  # of the projector
    assert sgd.optimizer == sgd.trained == lars.optimizer


@pytest.mark.system
def test_more_images_take_more_recomputing_takes_less_memory_and_more_operations() -> None:
    keys = "data.size=64", "optim=adamw"
    few, many, more = (rehearsed(*keys, images=images) for images in (16, 32, 48))
    spared = rehearsed(*keys, "parallel.checkpoint_activations=true", images=32)
    assert few.activations < many.activations and spared.activations < many.activations
    held = [memory("ddp", 1, step).peak for step in (few, many, more)]  # on a line through two of them
    assert largest("ddp", 1, few, many, held[2]) == pytest.approx(48, abs=1)
    forward, doubled = many.forward.flops, 2 * few.forward.flops
    assert forward == spared.forward.flops == pytest.approx(doubled, rel=1e-4)  # but for top1 among all images
    again = (spared.backward - many.backward).flops
    assert 0.8 * forward / 2 < again < forward / 2  # the query encoder's blocks, and not the keys'
    assert few.trained == many.trained == spared.trained


def regression() -> FakeTask:
    mode, world = FakeTensorMode(), fake_world("fp32")
    with mode:
        return FakeTask(Regression(world), STAGES, Shapes(), mode, world)


def test_fused_optimizers_of_a_gpu_are_planned_without_clearing_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are of the side module, weight and bias; by unfused ones each is cleared."""
    cleared = list[int]()
    monkeypatch.setattr(torch.Tensor, "masked_fill_", lambda self, *_: cleared.append(self.numel()))
    for gpu, expected in ((True, []), (False, [1, FEATURES, 1])):
        fake = regression()
        cleared.clear()
        rehearse(fake, STAGES[1], BATCH, gpu=gpu)
        assert cleared == expected


def test_any_task_is_rehearsed_a_linear_regression_by_hand() -> None:
    """y = w·x + b on 16 rows of five numbers, 8 a micro-batch; then the side module, a factor, on 8 numbers twice."""
    fake = regression()
    weights, everything = (rehearse(fake, stage, BATCH, accumulate=2) for stage in STAGES)
    product = 2 * BATCH * FEATURES
    done = [work.flops for work in (weights.forward, everything.forward, weights.backward, everything.backward)]
    assert done[:3] == [product] * 3  # the numbers need no gradient
    assert done[3] == product + 2 * (2 * BATCH)
    assert (weights.trained, weights.idle, weights.momentum, weights.buffers) == (4 * FEATURES, 4, 0, 0)
    assert (everything.trained, everything.idle) == (4 * FEATURES + 4, 0)
    assert [step.optimizer for step in (weights, everything)] == [4 * FEATURES, 4 * FEATURES + 4]  # momentum
    assert weights.adversary == everything.adversary == 4
    assert max(live.gradients for live in everything.live_in_passes) == everything.trained
    assert weights.collectives == [] and weights.blocks == 0


def test_cudnns_norm_moves_what_torchs_does() -> None:
    """Its arguments have other names; tensors without memory never call it."""
    x, weight = torch.empty(4, 8, 6, 6, device="meta"), torch.empty(8, device="meta")
    stats = weight, weight, weight, weight
    aten, out = torch.ops.aten, (x, weight, weight)
    native = work_of(aten.native_batch_norm_backward.default, (x, x, weight, *stats, True, 1e-5, [True] * 3), {}, out)
    cudnns = work_of(aten.cudnn_batch_norm_backward.default, (x, x, weight, *stats, 1e-5, weight[:0]), {}, out)
    assert cudnns == native and native.norms > 0
