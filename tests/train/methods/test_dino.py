"""DINO on one process: its loss against the paper's formulas in float64, its schedules, and what it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn
from train.methods.tiny import assert_same_loss

from dira_scale.base.arguments import ArgumentError
from dira_scale.pretrain.diagnosis import PATIENCE, Diagnosis
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.engine.config import Optim
from dira_scale.train.engine.optim import stage_optimizer
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.step import StageRun
from dira_scale.train.engine.task import StagePlan, StagePosition
from dira_scale.train.methods.byol import BYOL
from dira_scale.train.methods.dino import DINO, share_used
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.models import norm
from dira_scale.train.models.encoder import build_encoder, timm_entries, timm_names
from dira_scale.train.models.heads import PrototypeHead

CROPS = ({"count": 2}, {"size": 32, "count": 3})
VIEWS = ViewSpec(size=64, crops=CROPS)
SETTINGS = {"prototypes": 12, "hidden": 9, "bottleneck": 5}


def small(encoder):
    """A network of timm's for 64 pixels, whose positions are resampled by us: timm does it in float32."""
    return build_encoder(encoder, size=64, arguments={"dynamic_img_size": False} if encoder == "test_vit" else {})


def method(encoder="test_vit", views=VIEWS, groups=1, **settings):
    torch.manual_seed(0)
    built = DINO(small(encoder), views, **SETTINGS | settings)
    with torch.no_grad():  # a teacher unlike its student, whose centre has moved
        for parameter in (*built.teacher.parameters(), *built.teacher_head.parameters()):
            parameter.mul_(1.2)
        if built.centre is not None:
            built.centre.copy_(torch.linspace(-0.5, 0.5, 12))
    return norm.convert(built, groups).double().train()


def crops(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sides = (64, 64, 32, 32, 32)
    return tuple(torch.rand(count, 1, side, side, generator=generator, dtype=torch.float64) for side in sides)


def forward(model, images):
    return model(images, images, SimpleNamespace(step=0))


def head_of(head, x):
    """Linear layers with GELU between, BatchNorm where there is one, unit length, cosines with the prototypes."""
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + layer.bias
        elif isinstance(layer, nn.GELU):
            x = x * (1 + torch.erf(x / 2**0.5)) / 2
        else:
            x = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt() * layer.weight + layer.bias
    x = x / x.square().sum(1, keepdim=True).sqrt()
    rows = head.prototypes / head.prototypes.square().sum(1, keepdim=True).sqrt()
    return x, x @ rows.T


def seen(encoder, image):
    tokens = encoder.tokens(image)
    return tokens.maps[-1].mean((2, 3)) if tokens.class_token is None else tokens.class_token


def formula(model, images, temperature):
    """Equations 1 to 3 of the paper, one pair after another. Every crop has a pass of its own: without BatchNorm."""
    student = head_of(model.head, torch.cat([seen(model.encoder, image) for image in images]))[1].chunk(len(images))
    teacher = head_of(model.teacher_head, torch.cat([seen(model.teacher, image) for image in images[:2]]))[1].chunk(2)
    total, pairs = 0.0, 0
    for i, logits in enumerate(teacher):
        p = ((logits.detach() - model.centre) / temperature).exp()
        p = p / p.sum(1, keepdim=True)
        for j, s in enumerate(student):
            if i != j:
                q = (s / 0.1).exp() / (s / 0.1).exp().sum(1, keepdim=True)
                total, pairs = total - (p * q.log()).sum(1).mean(), pairs + 1
    return total / pairs


@pytest.mark.parametrize("encoder", ["test_vit", "test_convnext"])
def test_the_loss_and_its_gradient_are_the_formula(encoder):
    model, images = method(encoder, teacher_temperature=0.07, first_temperature=0.04, warmup=0.5, frozen=0), crops()
    model.progress = 0.25
    expected, terms = formula(model, images, 0.055), forward(model, images)
    assert_same_loss(model, terms.losses["di"], expected)
    terms = forward(model, images)
    assert all(slope.any() for slope in torch.autograd.grad(terms.losses["di"], terms.features))  # health monitors do


def test_the_heads_batch_norm_is_over_all_views_of_a_groups_samples():
    model, images = method(batch_norm=True, groups=2, warmup=0, frozen=0), crops()
    halves = [formula(model, [image[part] for image in images], 0.07) for part in (slice(0, 2), slice(2, 4))]
    assert_same_loss(model, forward(model, images).losses["di"], torch.stack(halves).mean())


def test_the_released_codes_teacher_has_one_temperature_for_each_epoch():
    """``np.linspace`` over the epochs of the warm-up, then the last; here 7 steps an epoch, of which 50 are trained."""
    epochs, warm, steps = 50, 5, 7
    model = method(teacher_temperature=0.07, first_temperature=0.04, warmup=0.1, rises=warm)
    schedule = [*np.linspace(0.04, 0.07, warm), *np.full(epochs - warm, 0.07)]
    for step in range(epochs * steps):
        model.progress = step / (epochs * steps)
        assert model.temperature == pytest.approx(schedule[step // steps]), step


def test_prototypes_are_frozen_at_the_beginning_only():
    """AdamW, as every optimizer, gets their true gradients meanwhile, so of a constant one its first step is the rate,
    as of one that was never frozen (Kingma and Ba, ICLR 2015, algorithm 1), and nothing decays them."""
    model = method(frozen=0.1)
    forward(model, crops()).losses["di"].backward()
    slopes = {name: p.grad.clone() for name, p in model.head.named_parameters()}
    assert all(slope.any() for slope in slopes.values())
    for name, moved in steps_of(model, model.head, slopes).items():
        frozen = name == "prototypes"
        for step, by in enumerate(moved):
            expected = 0 if frozen and step < 4 else -0.01 * slopes[name].sign()
            torch.testing.assert_close(by, torch.zeros_like(by) + expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])  # BatchNorm's layers are replaced by ours
def test_an_encoder_that_starts_from_weights_waits_for_the_heads(encoder):
    model = method(encoder, frozen=0, frozen_encoder=0.1)
    model.enter_stage(["di"])
    forward(model, crops()).losses["di"].backward()
    for part, waits in ((model.encoder, 4), (model.head, 0)):
        slopes = {name: p.grad.clone() for name, p in part.named_parameters() if p.grad is not None and p.grad.any()}
        assert slopes
        for name, moved in steps_of(model, part, slopes).items():
            assert [not by.any() for by in moved] == [step < waits for step in range(6)], name


def steps_of(model, head, slopes):
    """By how much each of six steps of a stage of 40 moves the parameters of ``head``, of constant gradients."""
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.0, "eps": 1e-12}
    config = Optim(optimizer=optimizer, one_dimensional={}, fixed_rate=[], schedule="constant")
    trained = SimpleNamespace(module=model, optimizer=stage_optimizer(config, model, 8))
    stage = StageRun(StagePlan("di", 8, 40, 10), trained, None, None, None)
    moved = {name: [] for name in slopes}
    for step in range(6):
        stage.set_pace(SimpleNamespace(optim=config, set_progress=lambda *_: None), RunState(step=step))
        parameters = {name: parameter for name, parameter in head.named_parameters() if name in slopes}
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.grad = slopes[name].clone()
        trained.optimizer.step()
        for name, parameter in parameters.items():
            moved[name].append(parameter.detach() - before[name])
    return moved


def test_teacher_and_centre_follow_after_the_step_of_micro_batches():
    model, images = method(momentum=0.9, centre_momentum=0.8), crops(8)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for model.progress, kept in ((0.0, 0.9), (0.5, 0.95), (1.0, 1.0)):
        now, centre = dict(model.named_parameters()), model.centre.clone()
        before = {name: p.clone() for name, p in now.items() if name.startswith("teacher")}
        logits = [head_of(model.teacher_head, seen(model.teacher, image))[1] for image in images[:2]]
        for part in range(2):
            forward(model, tuple(view[4 * part : 4 * part + 4] for view in images)).losses["di"].backward()
        optimizer.step()
        assert torch.equal(model.centre, centre) and all(torch.equal(now[name], old) for name, old in before.items())
        model.after_step()
        torch.testing.assert_close(model.centre, 0.8 * centre + 0.2 * torch.cat(logits).mean(0).detach())
        for name, old in before.items():
            student = now[name.replace("teacher_", "").replace("teacher", "encoder")]
            torch.testing.assert_close(now[name], kept * old + (1 - kept) * student)
    with pytest.raises(AssertionError, match="training"):
        model.eval().after_step()


def test_monitors_tell_a_collapsed_teacher():
    """One is uniform, and one takes the same prototype for all images."""
    model, images = method().eval(), crops()
    healthy = forward(model, images).monitors
    assert 0 < healthy["teacher_entropy"] < 1 and healthy["prototypes"] <= 1
    torch.testing.assert_close(healthy["centre_norm"], model.centre.norm())
    with torch.no_grad():
        model.teacher_head.prototypes[:] = model.teacher_head.prototypes[0].clone()
        uniform = (model.centre.zero_(), forward(model, images))[1].monitors
        model.centre[3] = -9.0
        single = forward(model, images).monitors
    assert uniform["teacher_entropy"].item() == pytest.approx(1)
    assert single["teacher_entropy"].item() == pytest.approx(0, abs=1e-9) and single["prototypes"].item() == 0
    chosen = torch.tensor([3, 3, 5, 3, 7, 3, 3, 3])
    assert share_used(chosen, 12).item() == pytest.approx(2 / 7) and share_used(chosen.repeat(9), 12) == 2 / 11
    watch = Diagnosis(SimpleNamespace(adversary=SimpleNamespace(loss=""), method={}, stages={}))
    rows = [{name: value.item() for name, value in single.items()} for _ in range(PATIENCE)]
    assert any(
        "0.0% of the others" in text for row in rows for text in watch.warnings(row, StagePosition("di", 9000, 5000))
    )


def test_the_head_has_the_papers_size_and_prototypes_of_length_one():
    with torch.device("meta"):
        head = PrototypeHead(384, 2048, 256, 65536)
    linear = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256
    assert sum(p.numel() for p in head.parameters()) == linear + 256 * 65536
    head = PrototypeHead(4, 8, 5, 6)
    embedding, logits = head(torch.randn(3, 4))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(logits, embedding @ F.normalize(head.prototypes, dim=1).T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ViewSpec(size=64, count=1)}, "^views: expected 2 global crops of one size first, .*, for DINO"),
        ({"views": ViewSpec(size=64, crops=({"count": 1}, {"size": 32}))}, r"^views: .* as configs/views/dino\.yaml"),
    ],
)
def test_what_it_refuses(settings, message):
    with pytest.raises(ArgumentError, match=message):
        method(**settings)


def test_paths_are_dropped_alike_in_all_blocks():
    arguments = {"drop_path_rate": 0.5, "drop_path_uniform": True}
    encoder = build_encoder("test_vit", size=64, arguments=arguments)
    rates = [layer.drop_prob for layer in encoder.modules() if isinstance(layer, DropPath)]
    assert rates == [0.5] * 2 * len(encoder.model.blocks) and encoder.arguments.keys() == {"drop_path_rate", "img_size"}
    with pytest.raises(ArgumentError, match=r"^arguments: .* 'test_resnet' \(drop_path_uniform is of vision"):
        build_encoder("test_resnet", size=64, arguments=arguments)


@pytest.mark.parametrize(("kind", "settings"), [(DINO, SETTINGS), (MoCo, {"queue": 8}), (BYOL, {"hidden": 8})])
def test_no_momentum_encoder_drops_paths(kind, settings):
    views = VIEWS if kind is DINO else ViewSpec(size=64)
    model = kind(build_encoder("test_vit", size=64, arguments={"drop_path_rate": 0.5}), views, **settings)
    drops = {
        part: [layer.drop_prob for layer in getattr(model, part).modules() if isinstance(layer, DropPath)]
        for part in ("encoder", model.momentum_encoder)
    }
    assert max(drops["encoder"]) == 0.5 and drops[model.momentum_encoder] and not any(drops[model.momentum_encoder])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretrained": True}, r"^arguments\.pretrained: expected to be left out: weights are loaded from a file"),
        ({"patch_drop_rate": 0.5}, r"^arguments\.patch_drop_rate: .* a pyramid needs all patches"),
        ({"patch_size": 5}, r"^encoder: .* test_vit with the arguments {'patch_size': 5} has no feature pyramid"),
        ({"depht": 3}, r"^arguments: expected those of timm's 'test_vit' \(.*'depht'"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        build_encoder("test_vit", size=64, arguments=arguments)


def test_lists_among_the_arguments_are_timms_too():
    encoder = build_encoder("test_convnext", size=64, arguments={"depths": [1, 1, 1, 1]})
    assert set(timm_names(encoder).values()) <= set(timm_entries(encoder))


def test_sinkhorn_needs_the_whole_batch():
    method().check(batch=8, accumulate=2)
    with pytest.raises(ArgumentError, match=r"^accumulate: expected 1: DINO with Sinkhorn-Knopp compares the images"):
        method(centring="sinkhorn").check(batch=8, accumulate=2)
