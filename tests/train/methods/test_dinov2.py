"""DINOv2 on one process: its three terms against plain formulas in float64, its masks, and what it refuses."""

import numpy as np
import pytest
import torch
from train.losses.test_distillation import balanced
from train.methods.test_dino import SETTINGS, crops, head_of, small, steps_of
from train.methods.tiny import Facts, assert_same_loss

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.distort.corruptions import BlockwiseMask, PatchMask
from dira_scale.train.data.views import ViewSpec, draw
from dira_scale.train.engine.config import Optim
from dira_scale.train.engine.optim import stage_optimizer
from dira_scale.train.methods.dinov2 import DINOv2

MASK = {"mask": BlockwiseMask(16, (0.2, 0.6), p=0.5)}
LOCAL = {"size": 32, "count": 3, "corruptions": {}}


def spec(corruptions=MASK):
    return ViewSpec(size=64, crops=({"count": 2}, LOCAL), corruptions=corruptions)


def method(encoder="test_vit", views=None, **settings):
    torch.manual_seed(0)
    built = DINOv2(small(encoder), views or spec(), **SETTINGS | settings)
    with torch.no_grad():
        built.mask_token.normal_()
        for name, parameter in built.named_parameters():
            if name.startswith("teacher"):
                parameter.mul_(1.2)
    return built.double().train()


def batch_of(views, count=6):
    index = np.arange(count)
    sides = (np.full(count, 64), np.full(count, 64))
    drawn = [draw(views, 0, 0, index, 0 * index, view, *sides)[1] for view in range(views.count)]
    return Facts(step=0, distortions=drawn)


def masked_tokens(encoder, image, mask, token):
    """timm's own layers one after another: class token and patches, both after the norm."""
    model = encoder.model
    x = model.patch_embed(image.expand(-1, 3, -1, -1))
    rows = x.flatten(1, -2)
    rows = torch.stack([
        torch.stack([token if hidden else row for row, hidden in zip(sample, hides, strict=True)])
        for sample, hides in zip(rows, mask.flatten(1), strict=True)
    ])  # fmt: skip
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), rows], 1) + model.pos_embed
    for block in model.blocks:
        x = block(x)
    x = model.norm(x)
    return x[:, 0], x[:, 1:]


def formula(model, images, batch, temperature):
    """The terms one view, one image and one patch after another; and of softmax centring the mean of what the teacher
    says of hidden patches."""

    def probabilities(logits, centre):
        if centre is not None:
            return ((logits - centre) / temperature).softmax(1)
        return torch.tensor(balanced(logits.tolist(), temperature), dtype=torch.float64)

    masks = [batch.distortions[view].corruptions["mask"]["mask"] for view in range(2)]
    student = [masked_tokens(model.encoder, images[v], masks[v], model.mask_token) for v in range(2)]
    local = [model.encoder.tokens(image).class_token for image in images[2:]]
    with torch.no_grad():
        teacher = [masked_tokens(model.teacher, images[v], 0 * masks[v], model.mask_token) for v in range(2)]
        logits = torch.cat([head_of(model.teacher_head, classes)[1] for classes, _ in teacher])
        targets = probabilities(logits, model.centre).chunk(2)
    total, pairs = 0.0, 0
    for i, target in enumerate(targets):
        for j, token in enumerate([student[0][0], student[1][0], *local]):
            if i != j:
                p = head_of(model.head, token)[1].div(0.1).log_softmax(1)
                total, pairs = total - (target * p).sum(1).mean(), pairs + 1
    heads = model.patch_head or model.head, model.teacher_patch_head or model.teacher_head
    where = [(v, i, k) for v in range(2) for i in range(len(images[0])) for k in masks[v][i].flatten().nonzero()[:, 0]]
    logits = head_of(heads[1], torch.stack([teacher[v][1][i, k] for v, i, k in where]))[1].detach()
    targets = probabilities(logits, model.patch_centre)
    ibot = 0.0
    for (v, i, k), target in zip(where, targets, strict=True):
        p = head_of(heads[0], student[v][1][i, k][None])[1][0].div(0.1).log_softmax(0)
        ibot = ibot - (target * p).sum() / masks[v][i].sum() / (2 * len(images[0]))
    koleo = 0.0
    for tokens, _ in student:
        unit = tokens / tokens.norm(dim=1, keepdim=True)
        distances = torch.stack([torch.stack([(a - b + 1e-8).norm() for j, b in enumerate(unit) if j != i]).min()
                                 for i, a in enumerate(unit)])  # fmt: skip
        koleo = koleo - (distances + 1e-8).log().mean()
    return {"di": total / pairs, "ibot": ibot, "koleo": koleo}, logits.mean(0)


@pytest.mark.parametrize(("separate", "centring"), [(True, "sinkhorn"), (False, "softmax")])
def test_the_terms_and_their_gradients_are_the_formulas(separate, centring):
    model = method(separate=separate, centring=centring, teacher_temperature=0.07, warmup=0.5, frozen=0)
    images, model.progress, batch = crops(6), 0.25, batch_of(model.views)
    if centring == "softmax":
        model.centre.copy_(torch.linspace(-0.5, 0.5, 12))
        model.patch_centre.copy_(torch.linspace(0.2, -0.6, 12))
    counts = [batch.distortions[v].corruptions["mask"]["mask"].flatten(1).sum(1) for v in range(2)]
    assert 0 < (torch.cat(counts) == 0).sum() < 12  # views with hidden patches, and without
    (expected, mean), terms = formula(model, images, batch, 0.055), model(images, images, batch)
    if centring == "softmax":
        before = model.patch_centre.clone()
    assert terms.losses.keys() == expected.keys()
    slopes = [torch.autograd.grad(loss, terms.features, retain_graph=True) for loss in terms.losses.values()]
    assert all(slope.any() for pair in slopes for slope in pair)  # health monitors compare them
    for name, loss in terms.losses.items():
        assert_same_loss(model, loss, expected[name], name, rtol=1e-9)
    model.enter_stage(["di", "koleo"])
    others = model(images, images, batch).losses  # the student sees as little without the patches' term
    torch.testing.assert_close(others, {name: expected[name] for name in others}, rtol=1e-9, atol=0)
    assert others.keys() == {"di", "koleo"}
    if centring == "softmax":
        model.after_step()
        torch.testing.assert_close(model.patch_centre, 0.9 * before + 0.1 * mean)
    assert not separate or not any(parameter.requires_grad for parameter in model.patch_head.parameters())


def test_teachers_heads_follow_and_the_mask_token_has_none():
    model, images = method(momentum=0.9, frozen=0), crops(6)
    now = dict(model.named_parameters())
    before = {name: p.clone() for name, p in now.items() if name.startswith("teacher")}
    sum(model(images, images, batch_of(model.views)).losses.values()).backward()
    assert model.mask_token.grad.any() and not any(p.requires_grad for name, p in now.items() if name in before)
    model.after_step()
    for name, old in before.items():
        student = now[name.replace("teacher_", "").replace("teacher", "encoder")]
        torch.testing.assert_close(now[name], 0.9 * old + 0.1 * student)


def test_prototypes_of_both_heads_are_frozen_at_the_beginning():
    model, images = method(frozen=0.1), crops(6)
    sum(model(images, images, batch_of(model.views)).losses.values()).backward()
    for head in (model.head, model.patch_head):
        slopes = {name: p.grad.clone() for name, p in head.named_parameters()}
        assert slopes["prototypes"].any()
        held = {name: [not by.any() for by in moved] for name, moved in steps_of(model, head, slopes).items()}
        assert held.pop("prototypes") == [True] * 4 + [False] * 2
        assert not any(itself for each in held.values() for itself in each)


def test_the_mask_token_waits_with_the_encoder():
    model, adamw = method(frozen=0, frozen_encoder=0.1), {"_target_": "torch.optim.AdamW"}
    for terms, share in ((["di", "ibot"], 0.1), ([], 0.0)):
        model.enter_stage(terms)
        groups = stage_optimizer(Optim(optimizer=adamw, one_dimensional={}, fixed_rate=[]), model, 6).param_groups
        (group,) = (group for group in groups if any(p is model.mask_token for p in group["params"]))
        assert group["frozen"] == share


def test_the_mask_token_decays_as_a_matrix():
    """The released code has it as [1, dim], and leaves biases, norms and LayerScale alone without decay."""
    model, adamw = method(), {"_target_": "torch.optim.AdamW", "weight_decay": 0.04}
    config = Optim(optimizer=adamw, one_dimensional={"weight_decay": 0}, fixed_rate=[])
    groups = stage_optimizer(config, model, 6).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 or name == "mask_token"
            assert decays[id(parameter)] == (0.04 if decayed else 0), name
    assert model.identity(1, ["di"])["mask_token_version"] == 2


def test_rates_fall_from_the_last_block_to_the_patches_and_heads_keep_theirs():
    model = method()
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    factors = Optim(layer_decay=0.9, patch_factor=0.2).factors(names)
    assert factors["encoder.model.blocks.5.attn.qkv.weight"] == 0.9 and factors["encoder.model.norm.bias"] == 1
    assert factors["encoder.model.blocks.0.attn.qkv.weight"] == pytest.approx(0.9**6)
    assert factors["encoder.model.patch_embed.proj.weight"] == pytest.approx(0.2 * 0.9**7)
    assert factors["encoder.model.pos_embed"] == factors["mask_token"] == pytest.approx(0.9**7)
    assert all(name.startswith("encoder.model.") for name in factors if name != "mask_token")
    alone = Optim(patch_factor=0.2).factors(names)
    assert Optim(patch_factor=0.2).factors(["encoder.embed.bias"]) == {"encoder.embed.bias": 0.2}
    assert {name for name, factor in alone.items() if factor != 1} == {
        f"encoder.model.patch_embed.proj.{kind}" for kind in ("weight", "bias")
    }


def test_masks_hide_the_share_in_rectangles():
    """In about half of the views, from 10 to 50 % of the patches; of one rectangle all are neighbours."""
    mask = BlockwiseMask(14, (0.1, 0.5), p=0.5)
    generator = np.random.default_rng(0)
    hidden = mask.draw(generator.random((2000, mask.numbers((224, 224)))), (224, 224))["mask"]
    counts = hidden.sum((1, 2))
    assert hidden.shape == (2000, 16, 16) and abs((counts > 0).mean() - 0.5) < 0.05
    some = counts[counts > 0]
    assert some.max() <= mask.most((224, 224)) == 128 and some.min() >= 20
    wanted = 0.3 * 256  # their mean
    assert abs(some.mean() - wanted) < 3
    batches = counts.reshape(-1, 50).sum(1)
    assert batches.max() < mask.most((224, 224), 50) < 0.3 * 50 * 256  # of twice as many hidden as on average
    assert mask.most((224, 224), 5) == 5 * 128  # so few may all be as much hidden as one can be
    beside = (hidden[:, 1:] & hidden[:, :-1]).sum() / hidden[:, 1:].sum()
    assert beside > 0.75  # of patches drawn one by one 0.3


def test_masks_of_any_patches_hide_the_share_evenly():
    """In about half of the views from 20 to 75 % of patches are hidden, neighbours no more often than others."""
    mask, size = PatchMask(8, (0.2, 0.75), p=0.5), (32, 32, 32)
    hidden = mask.draw(np.random.default_rng(0).random((4000, mask.numbers(size))), size)["mask"]
    counts = hidden.sum((1, 2, 3))
    some = hidden[counts > 0]
    assert hidden.shape == (4000, 4, 4, 4) and abs((counts > 0).mean() - 0.5) < 0.05
    assert counts[counts > 0].min() >= 12 and counts.max() <= mask.most(size) == 48
    assert abs(some.mean() - 0.475) < 0.02 and np.abs(some.mean(0) - some.mean()).max() < 0.05
    beside, apart = (some[:, 1:] & some[:, :-1]).mean(), (some[:, :1] & some[:, 3:]).mean()
    assert abs(beside - apart) < 0.02


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BlockwiseMask, {"patch": 12}, r"^corruptions\.mask\.patch: expected a side that divides a view of 64 x"),
        (BlockwiseMask, {"patch": 16, "share": (0.5, 0.1)}, "^share: expected .* in ascending order"),
        (PatchMask, {"patch": 12}, r"^corruptions\.mask\.patch: expected a side"),
    ],
)
def test_masks_that_are_refused(kind, settings, message):
    with pytest.raises(ArgumentError, match=message):
        spec({"mask": kind(**settings)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "test_resnet"}, "^encoder: expected a vision transformer, .*: test_resnet has no patches to hide"),
        ({"views": spec({})}, r"^views\.corruptions\.mask: expected .* patches of 16 pixels, those of test_vit"),
        ({"views": spec({"mask": BlockwiseMask(8)})}, r"^views\.corruptions\.mask: expected .* patches of 16 pixels"),
        ({"weights": {"di": 1.0}}, "^weights: expected a number for each of di, ibot, koleo"),
    ],
)
def test_what_it_refuses(settings, message):
    with pytest.raises(ArgumentError, match=message):
        method(**settings)
    for centring, why in (("sinkhorn", "Sinkhorn-Knopp"), ("softmax", "KoLeo")):
        with pytest.raises(ArgumentError, match=rf"^accumulate: expected 1: DINOv2 with {why}"):
            method(centring=centring).check(batch=8, accumulate=2)
