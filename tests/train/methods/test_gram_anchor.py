"""DINOv2's Gram anchor: its term by timm's own layers, with larger views too; when it moves; what is refused."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from toy_run import write
from train.losses.test_gram import plain
from train.methods.test_dino import SETTINGS, small
from train.methods.test_dinov2 import LOCAL, MASK, batch_of, masked_tokens, method, spec
from train.methods.test_multi_crop import WORLD

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.objective import Objective
from dira_scale.pretrain.task import PretrainTask
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import Blur, Cutout, InverseCutout, Shuffle, ViewSpec
from dira_scale.train.methods.dinov2 import DINOv2

LARGE = ViewSpec(size=64, crops=({"count": 2}, LOCAL, {"count": 2, "size": 128, "same_as": 0}), corruptions=MASK)
PLAIN = {"cutout": Cutout(p=0), "inverse_cutout": InverseCutout(p=0), "shuffle": Shuffle(p=0)}
TERMS = ["di", "ibot", "koleo", "gram"]


def anchored(views=None, anchor="start", encoder="test_vit", **settings):
    model = method(encoder, views, anchor=anchor, frozen=0, **settings)
    with torch.no_grad():
        for parameter in model.anchor.parameters():
            parameter.mul_(1.5 if parameter.dim() > 1 else 1)
    return model


def images_of(model, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sides = [view.size for view in model.views.each]
    return tuple(torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64) for side in sides)


@pytest.mark.parametrize("views", [None, LARGE], ids=["same", "larger"])
def test_the_term_is_the_formula(views):
    model = anchored(views)
    images, batch = images_of(model), batch_of(model.views, 3)
    losses = model(images, images, batch).losses
    seen, expected = images[5:] or images[:2], 0.0
    for view in range(2):
        mask = batch.distortions[view].corruptions["mask"]["mask"]
        _, student = masked_tokens(model.encoder, images[view], mask, model.mask_token)
        side = seen[view].shape[2] // 16
        anchor = model.anchor.tokens(seen[view]).patches.unflatten(1, (side, side)).movedim(3, 1)
        if side > 4:
            anchor = F.interpolate(anchor, (4, 4), mode="bicubic")
        expected += plain(student.tolist(), anchor.flatten(2).mT.tolist()) / 2
    assert losses["gram"].item() == pytest.approx(expected, rel=1e-9) and expected > 1e-6
    assert [*losses] == TERMS and model.weights["gram"] == 2.0
    others = method(views=spec(), frozen=0)  # the larger views are for nothing else
    others.load_state_dict(model.state_dict(), strict=False)
    others = others(images[:5], images[:5], batch).losses
    for name, loss in others.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-12, atol=0)
    slopes = torch.autograd.grad(losses["gram"], [*model.encoder.model.blocks.parameters()])
    assert all(slope.any() for slope in slopes)
    assert not any(parameter.requires_grad for parameter in model.anchor.parameters())


def test_larger_views_show_the_same_part_with_more_pixels(tmp_path):
    """Of an image with more pixels than a view has, after flips, jitter and blur: one of 2 x 2 pixels is their mean."""
    dataset = ShardedDataset.open(write(tmp_path / "toy", width=32))
    crops = ({"count": 2}, {"size": 8, "count": 1, "corruptions": {}}, {"count": 2, "size": 32, "same_as": 0})
    views = ViewSpec(size=16, crops=crops, scale=(0.9, 1.0), blur=Blur((2.0, 4.0), p=1.0), **PLAIN)
    assert views.drawn_as == (0, 1, 2, 0, 1) and views.repeating == 2
    (batch,) = CpuLoader(LoaderSpec([dataset], "train", Order((60,), 1, 16), views, 0)).iterate(0, 1)
    objective = Objective({"di": 1.0}, None, views, WORLD)
    first, second, _, *again = (view[:, 0] for view in objective.distorted(batch.to("cpu"), ["di"]))
    for view, large in ((first, again[0]), (second, again[1])):
        (mine, other), small = (F.avg_pool2d(x, 2) for x in again), F.avg_pool2d(large, 2)
        error = (small - view).abs().mean()
        assert error < 0.02 < 0.04 < (view - (other if large is again[0] else mine)).abs().mean()


def test_the_term_falls():
    model = anchored(LARGE)
    model.enter_stage(["gram"])
    images, batch, seen = images_of(model), batch_of(model.views, 3), []
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=1e-3)
    for _ in range(12):
        (loss,) = model(images, images, batch).losses.values()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0]


def test_the_anchor_follows_the_teacher_by_steps_of_its_stage_and_survives_a_stop():
    """At the stage's first step, and after every third; whatever was trained before, and wherever a run was resumed."""

    def weights(model):
        return model.anchor.model.blocks[0].attn.qkv.weight

    def stage(model, terms, first, last, seen):
        model.enter_stage(terms)
        model.steps = 8
        for step in range(first, last):
            PretrainTask.set_progress(SimpleNamespace(), model, step / 8)
            with torch.no_grad():  # a step, after which the teacher has moved
                weights(SimpleNamespace(anchor=model.teacher)).add_(1.0)
            seen.append(weights(model)[0, 0].item() - start)

    torch.manual_seed(0)
    model = DINOv2(small("test_vit"), spec(), **SETTINGS, anchor="teacher", anchor_every=3).double()
    start, seen = weights(model)[0, 0].item(), []
    stage(model, ["di"], 0, 2, seen)
    stage(model, TERMS, 0, 5, seen)
    resumed = DINOv2(small("test_vit"), spec(), **SETTINGS, anchor="teacher", anchor_every=3).double()
    resumed.load_state_dict(model.state_dict())
    stage(resumed, TERMS, 5, 8, seen)
    assert seen == pytest.approx([0, 0, 2, 2, 2, 5, 5, 5, 8, 8])
    for other in ("start", "teacher"):
        model = DINOv2(small("test_vit"), spec(), **SETTINGS, anchor=other).double()
        start, now = weights(model)[0, 0].item(), []
        stage(model, ["di"], 0, 2, now)
        stage(model, TERMS, 0, 2, now)
        assert now == pytest.approx([0, 0, 2, 2] if other == "teacher" else [0] * 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"^views\.crops: expected none with same_as for DINOv2"),
        (["method.anchor=teacher", "same_as: 1"], r"^views\.crops\[1\]\.same_as=1: expected the number"),
        (["method.anchor=teacher", "same_as: 0, flip: 0"], r"^views\.crops\[1\]\.flip: expected only same_as, count"),
        (["method.anchor_every=9", "stages.dinov2.epochs=9"], r"^method\.anchor_every=9: expected null"),
        (["method.anchor=teacher", "stages.dinov2.epochs=9"], r"^method\.anchor=teacher: no stage has the term gram"),
        (["stages.dinov2.terms=[gram]"], r"^terms: expected terms without gram|stages\.dinov2\.terms=\[gram\]: exp"),
    ],
)
def test_what_is_refused(words, message):
    repeating = words.pop() if words and "same" in words[-1] else "same_as: 0"
    crops = f"views.crops=[{{count: 2}}, {{count: 2, size: 128, {repeating}}}]"
    words = [*words, *[crops] * ("stages" not in "".join(words))]
    with pytest.raises(UserError, match=message):
        PretrainBlueprint(compose("pretrain", ["data.shards=none", "experiment=small_dinov2", *words])).check(ranks=1)
