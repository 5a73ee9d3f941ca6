"""PCRL, in the paper's and in the released form, against its formulas written plainly (``pcrl_parts``)."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy import stats
from train.data.volumes import NONE
from train.methods.pcrl_parts import batch, formulas, mean_exponential, method, mixed, part, plain_nce

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data.geometry.orientation import indicator, reorient
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.losses.info_nce import exponentials, nce
from dira_scale.train.methods import construct
from dira_scale.train.methods.pcrl import PAPER_WEIGHTS, PCRL, PCRLReleased
from dira_scale.train.methods.pcrl_rotation import PCRLRotation
from dira_scale.train.methods.transform_attention import ChannelAttention, OuterAttention
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.models.unet import UNet
from dira_scale.train.models.volume.unet3d import UNet3DEncoder, UNet3DNetwork

FORMS = pytest.mark.parametrize("form", [PCRL, PCRLReleased])
ALL = [(v, h, q) for v in range(2) for h in range(2) for q in range(4)]
PARTS = {"di": {"encoder", "projector"}, "re": {"encoder", "attention", "decoder", "head"}}
STEP = 1e-7  # of a parameter


def assert_formulas(model, terms, expected):
    """Losses, monitors, and the image that is handed on."""
    exact = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(terms.losses["di"], expected.contrast, **exact)
    for name, error in expected.errors.items():
        torch.testing.assert_close(terms.monitors[f"re_{name}"], error, **exact)
    factor, handed_on = (4.425**2 / 4, "mixed") if isinstance(model, PCRLReleased) else (2.0**2, "ordinary")
    torch.testing.assert_close(terms.losses["re"], factor * sum(expected.errors.values()), **exact)
    torch.testing.assert_close((terms.restored, terms.target), expected.images[handed_on], **exact)


@FORMS
@pytest.mark.parametrize(("groups", "attention"), [(1, "channel"), (2, "outer")])
def test_steps_are_the_formulas_and_the_queue_a_list_that_forgets_its_oldest(form, groups, attention):
    """Steps of 1, 2 and 4 micro-batches, 24 keys each, of which the queue holds 30; shuffled maps of several groups.
    The paper's form is on a scale of 2, the released one on its own."""
    scale = {"target_scale": 2.0} if form is PCRL else {}
    model = method(form, groups=groups, attention=attention, queue=30, **scale)
    parameters = dict(model.named_parameters())
    copies = [name for name in parameters if name.startswith("key_")]
    assert all(torch.equal(parameters[name], parameters[name.removeprefix("key_")]) for name in copies)
    slots, slot = [*model.queue.clone()], 0
    for step in range(3):
        whole, size, keys = batch(count=8, step=step), 8 >> step, []
        before = model.queue.clone()
        for start in range(0, 8, size):
            micro_batch = part(whole, slice(start, start + size))
            expected = formulas(model, micro_batch)
            terms = model(*micro_batch)
            assert_formulas(model, terms, expected)
            assert torch.equal(terms.pyramids[0][-1], model.encoder(micro_batch[1][0])[-1])
            assert not any(each.requires_grad for each in terms.embeddings)
            first = micro_batch[2].distortions[0].orientations[:, 0]
            assert terms.orientation is None if form is PCRLReleased else torch.equal(terms.orientation, first)
            keys += [*expected.keys]
        assert torch.equal(model.queue, before)
        model.after_step()
        for branch in range(3):  # all images' first keys, then all second ones, then all third ones
            for image in keys:
                slots[slot % 30] = image[branch]
                slot += 1
        torch.testing.assert_close(model.queue, torch.stack(slots), rtol=1e-9, atol=1e-12)
        assert model.queue_pointer.item() == slot % 30 and not model._waiting
    assert (model.queue_age == 0).sum() == 24


@pytest.mark.parametrize(("transform", "mixture"), [("none", False), ("flip", False), ("all", False), ("none", True)])
def test_an_ablation_is_the_formula_without_what_it_leaves_out(transform, mixture):
    """Targets without turns, or as they are and decoded without attention; two branches and two keys of an image."""
    model, ((x1, x2), distorted, facts) = method(transform=transform, mixture=mixture, queue=48), batch(count=8)
    o, m, share = model.encoder(distorted[0]), model.key_encoder(distorted[1]), model.share(facts.step, 0)
    branches = [(o, x1, 0, 0), (m, x2, 1, 0), (mixed(o, m, share), share * x1 + (1 - share) * x2, 0, 1)]
    error = 0.0
    for maps, image, view, number in branches[: 3 if mixture else 2]:
        orientation = facts.distortions[view].orientations[:, number].clone()
        orientation[:, 2 if transform == "flip" else slice(3 * (transform == "all"), None)] = 0
        given = maps if transform == "none" else [*maps[:-1], model.attention(maps[-1], indicator(orientation))]
        error += (model.head(model.decoder(given)) - reorient(image, orientation)).square().mean()
    terms = model((x1, x2), distorted, facts)
    torch.testing.assert_close(terms.losses["re"], error, rtol=1e-9, atol=1e-12)
    assert ("re_hybrid" in terms.monitors) == mixture and (model.attention is None) == (transform == "none")
    sum(terms.losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.after_step()
    assert model.queue_pointer.item() == 8 * (3 if mixture else 2)


def test_beside_rotation_the_contrast_is_the_same_and_the_turn_of_each_view_is_told():
    """RotNet's cross-entropy on the first views, turned here one by one."""
    model, whole = method(PCRLRotation, mixture=False), batch(count=8)
    model.enter_stage(["di"])
    terms = model(*whole)
    model.__class__ = PCRL
    alone = model(*whole).losses["di"]
    turns = [int(orientation[-1]) for orientation in whole[2].distortions[0].orientations[:, 0]]
    turned = torch.stack([view.rot90(turn, (1, 2)) for view, turn in zip(whole[1][0], turns, strict=True)])
    (linear,) = (layer for layer in model.classifier.modules() if isinstance(layer, torch.nn.Linear))
    scores = (model.encoder(turned)[-1].mean((2, 3)) @ linear.weight.T + linear.bias).exp()
    right = torch.stack([score[turn] / score.sum() for score, turn in zip(scores, turns, strict=True)])
    torch.testing.assert_close(terms.losses, {"di": alone - right.log().mean()}, rtol=1e-9, atol=1e-12)
    hits = sum(int(score.argmax()) == turn for score, turn in zip(scores, turns, strict=True))
    assert terms.monitors["rotation_accuracy"].item() == pytest.approx(hits / 8) and len(set(turns)) > 1
    assert inspect.signature(PCRLRotation) == inspect.signature(PCRL)  # by which settings are checked


@FORMS
@pytest.mark.parametrize("trained", [True, False])
def test_evaluation_is_the_formula_and_changes_nothing(form, trained):
    """No image is mixed in, nor is it shuffled. Also between a step's micro-batches: keys wait, and BatchNorm's
    statistics. A batch's number, which depends on how many processes share the batches, does not matter."""
    model = method(form, groups=2, **({"target_scale": 2.0} if form is PCRL else {}))
    if trained:
        model(*batch(step=1))
        model.after_step()
        model(*batch(step=2))
    waiting, whole = list(model._waiting), batch(count=3, step=3)
    pending = [module.pending for module in model.modules() if hasattr(module, "pending")]
    before = [x.clone() for x in (*model.state_dict().values(), *pending)]
    model.eval()
    terms = model(*whole)
    assert_formulas(model, terms, formulas(model, whole))
    assert terms.monitors["chance"].item() == pytest.approx(1 / 3)
    whole[2].step = 8
    assert all(torch.equal(loss, terms.losses[name]) for name, loss in model(*whole).losses.items())
    assert model.share(3, 0) == model.share(8, 0) == 0.5
    assert pending and all(map(torch.equal, before, (*model.state_dict().values(), *pending)))
    assert len(model._waiting) == len(waiting) and all(map(lambda a, b: a is b, model._waiting, waiting))


@pytest.mark.parametrize("kind", [ChannelAttention, OuterAttention])
def test_attention_is_its_formula_and_works_under_autocast(kind):
    torch.manual_seed(0)
    attention, features = kind(8, 2).double(), torch.randn(16, 8, 3, 3, dtype=torch.float64)
    orientations = indicator(torch.tensor(ALL, dtype=torch.uint8))
    exact = attention(features, orientations)
    for i, (vertical, horizontal, quarters) in enumerate(ALL):
        vector = torch.eye(6, dtype=torch.float64)[2 + quarters]
        vector[0], vector[1] = vertical, horizontal
        first, _, second = attention.embedding
        weights = second(first(vector).clamp(min=0))
        if kind is OuterAttention:  # W of the outer product with the pooled features
            pooled, w = features[i].mean((1, 2)), attention.mix.weight
            pairs = [(a, b) for a in range(8) for b in range(8)]
            weights = sum(w[:, 8 * a + b] * weights[a] * pooled[b] for a, b in pairs).clamp(min=0)
        expected = features[i] * (1 / (1 + (-weights).exp()))[:, None, None]
        expected = attention.convolution(expected[None])[0] if kind is OuterAttention else expected
        torch.testing.assert_close(exact[i], expected, rtol=1e-9, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention.float()(features.bfloat16(), orientations)
    torch.testing.assert_close(rough.float(), exact.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_shares_follow_the_beta_distribution_and_are_a_matter_of_step_and_seed_alone(alpha):
    first, second, other = (method(alpha=alpha, seed=seed) for seed in (7, 7, 8))
    drawn = [first.share(step, 0) for step in range(3000)]
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    again = [first.share(step, 1) for step in range(3000)]
    assert len(set(drawn)) == 3000 and abs(np.corrcoef(drawn, again)[0, 1]) < 0.06
    torch.manual_seed(99)  # as the loop does before every micro-batch
    assert [second.share(step, 0) for step in range(20)] == drawn[:20]
    assert not {*drawn} & {other.share(step, 0) for step in range(20)}


@FORMS
@pytest.mark.parametrize("term", PARTS)
def test_each_term_teaches_its_parts_by_its_slopes(form, term):
    """Momentum encoder, queue and the released form's normaliser, which the first batch sets, are constants of the
    loss; hybrid maps teach the encoder by their share."""
    model, whole = method(form), batch(step=1)
    parts = {name: [*part.parameters()] for name, part in model.named_children() if not name.startswith("key_")}
    loss = model(*whole).losses[term]
    loss.backward()
    assert {name for name, part in parts.items() if any(p.grad is not None and p.grad.any() for p in part)} == PARTS[
        term
    ]
    for name in PARTS[term]:
        directions = [torch.randn_like(p) for p in parts[name]]
        slope = sum((p.grad * d).sum().item() for p, d in zip(parts[name], directions, strict=True))
        ends = []
        with torch.no_grad():
            for steps in (STEP, -2 * STEP, STEP):  # to one side, to the other, and back
                for parameter, direction in zip(parts[name], directions, strict=True):
                    parameter += steps * direction
                model._waiting.clear()
                ends.append(model(*whole).losses[term].item())
        assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(slope, rel=1e-5), name


@FORMS
@pytest.mark.parametrize("terms", [["di"], ["re"], ["di", "re"]])
def test_a_stage_computes_and_trains_its_terms(form, terms, monkeypatch):
    model = method(form)
    model.enter_stage(["di", "re"])
    model.enter_stage(terms)
    if terms == ["di"]:
        monkeypatch.setattr(model.decoder, "forward", lambda _: pytest.fail("the decoder ran"))
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set().union(*(PARTS[term] for term in terms))
    result = model(*batch())
    assert set(result.losses) == set(terms)
    assert (result.restored is None) == (terms == ["di"]) == (result.target is None)
    sum(result.losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.after_step()
    assert model.queue_pointer == 12  # the momentum encoder and the queue go on in every stage


@FORMS
def test_a_step_in_half_precision_has_its_losses_in_float32(form):
    model, (clean, distorted, facts) = method(form).float(), batch()
    views = [tuple(view.float() for view in pair) for pair in (clean, distorted)]
    exact = model(*views, facts).losses
    model._waiting.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*views, facts).losses
    for name, loss in rough.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)


@FORMS
def test_an_image_that_is_bounded_is_a_sigmoid(form):
    """Its errors are those of a linear head whose output is that already."""
    model, whole = method(form, bounded=True, target_scale=1.0), batch()
    plain = method(form, target_scale=1.0)
    plain.head = torch.nn.Sequential(plain.head, torch.nn.Sigmoid())
    ours, expected = model(*whole), plain(*whole)
    torch.testing.assert_close(ours.restored, expected.restored, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.losses, expected.losses, rtol=1e-12, atol=0)


UNET = {"encoder": 11_176_512, "decoder": 3_151_552, "head": 145}
UNET3D = {"encoder": 7_027_776, "decoder": 12_045_824, "head": 65}  # the authors': 19,073,665


@pytest.mark.parametrize(
    ("network", "attention", "counts"),
    [
        ("unet", "channel", UNET | {"attention": 133_376}),
        ("unet3d", "outer", UNET3D | {"attention": 133_632 + 512**3 + 27 * 512**2 + 512}),
    ],
)
def test_parameters_of_the_full_networks(network, attention, counts):
    """In the outer form: W and a convolution beside the embedding of ``channel``."""
    with torch.device("meta"):
        if network == "unet":
            unet, views = UNet(build_encoder("resnet18")), ViewSpec(orientations=2)
        else:
            unet = UNet3DNetwork(UNet3DEncoder())
            views = ViewSpec(size=(32, 64, 64), orientations=2, **NONE)
        model = PCRL(unet, views, attention=attention)
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    keys = {"key_encoder": counts["encoder"], "projector": 82_176, "key_projector": 82_176}
    assert found == counts | keys


def test_the_queue_must_hold_a_steps_keys_and_a_micro_batch_several_groups():
    method(queue=24, groups=4).check(batch=8, accumulate=2)
    with pytest.raises(ArgumentError, match=r"^queue: expected at least 27: "):
        method(queue=24).check(batch=9, accumulate=1)
    with pytest.raises(ArgumentError, match=r"^accumulate: .* bn_groups of at least 4"):
        method(groups=2).check(batch=8, accumulate=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orientations": 1}, "views.orientations: expected 2 or more, as configs/views/pcrl.yaml has, got 1"),
        ({"bounded": True, "target_scale": 4.0}, "target_scale: expected 1: a sigmoid gives the image itself, got 4.0"),
        ({"alpha": math.nan}, "alpha: expected a number above 0, got nan"),
        ({"attention": "chanel"}, "attention: expected channel or outer; did you mean 'channel'?, got 'chanel'"),
        ({"transform": "flips"}, "transform: expected all, flip or none; did you mean 'flip'?, got 'flips'"),
        ({"form": PCRLReleased, "mixture": False}, "mixture: expected true: PCRL alone leaves parts out"),
        ({"form": PCRLReleased, "transform": "none"}, "transform: expected all: PCRL alone leaves parts out"),
        ({"weights": {"di": 1.0, "re": 1.0, "ad": 1.0}}, "weights: expected a number for each of di, re, got "),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ArgumentError) as raised:
        method(**settings)
    assert str(raised.value).startswith(message)


def test_binary_nce_is_the_formula_with_any_number_of_batches():
    """A single query also works. The epsilon that is left out adds 1e-5 n (1 + 1/K) to the loss (0.01 at ChestX-ray14's
    1,227 batches of 64), whatever the queries, and so nothing to its gradient."""
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 5):
        sizes = (count, count, 500)
        drawn = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in sizes]
        q, k, queue = (F.normalize(x, dim=1) for x in drawn)
        scores, z = exponentials(q, k, queue, 0.2), mean_exponential(q, k, queue, 0.2)
        torch.testing.assert_close(scores.mean(), z, rtol=1e-12, atol=0)
        for batches in (1, 10, 1227):
            expected = plain_nce(q, k, queue, 0.2, z, batches)
            torch.testing.assert_close(nce(scores / z), expected, rtol=1e-12, atol=0)
            with_epsilon = plain_nce(q, k, queue, 0.2, z, batches, epsilon=1e-5)
            assert (with_epsilon - expected).item() == pytest.approx(1e-5 * batches * (1 + 1 / 500), rel=0.02)


def test_the_normaliser_is_the_first_batchs_and_is_kept():
    """The first that is a number."""
    model, (clean, (first, second), facts) = method(PCRLReleased), batch()
    expected = formulas(model, batch()).normaliser.item()
    model(clean, (first * math.nan, second), facts)
    model._waiting.clear()
    for step in range(2):
        model(*batch(step=step))
        model.after_step()
        assert model.normaliser.item() == pytest.approx(expected, rel=1e-9)
    assert "normaliser" in model.state_dict()


def test_a_head_that_started_elsewhere_predicts_the_same_image(tmp_path):
    """Weights of files and runs predict images; a head on another scale gets them multiplied."""
    torch.manual_seed(0)
    given = UNet(build_encoder("test_resnet", size=32), (8,) * 5)
    save_file(given.state_dict(), tmp_path / "unet.safetensors")
    node = {"_target_": "PCRLReleased", "dim": 8, "queue": 96, "target_scale": 4.0}
    model = {"_target_": "TimmUNet", "encoder": "test_resnet"}
    model |= {"weights": str(tmp_path / "unet.safetensors"), "decoder_channels": [8] * 5}
    started = construct(node, model | {"bn_groups": 1}, ViewSpec(size=32, orientations=1))
    torch.testing.assert_close(started.head.weight, 4 * given.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(started.encoder.state_dict(), given.encoder.state_dict(), rtol=0, atol=0)


def test_the_scale_of_targets_is_that_of_normalised_images():
    """A grey error e in [0, 1] is e / σ in each colour normalised by ImageNet: 19.58 times the squared error."""
    deviations = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    assert (1 / deviations**2).mean().item() == pytest.approx(4.425**2, abs=0.005)
    assert pytest.approx(PAPER_WEIGHTS["re"], abs=0.005) == 0.5 * 4.425**2
