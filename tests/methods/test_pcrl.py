"""PCRL in the paper's form, against its formulas written plainly (``pcrl_parts``); the released form has its own."""

import math

import numpy as np
import pytest
import torch
from methods.pcrl_parts import (
    Given,
    array,
    assert_number_does_not_matter,
    attended,
    batch,
    build,
    channel_attended,
    embedding,
    mixed,
    outer_attended,
    part,
    pyramid,
    restored,
    sample,
    squared_error,
    turned,
    unit,
    vector,
)
from scipy import stats

from dira_scale.data.geometry.orientation import indicator
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.methods import moco
from dira_scale.methods.pcrl import PCRL, blended
from dira_scale.methods.transform_attention import ChannelAttention, OuterAttention
from dira_scale.models import norm
from dira_scale.models.encoder import build_encoder
from dira_scale.models.unet import UNet

ALL = [(v, h, q) for v in range(2) for h in range(2) for q in range(4)]


def method(**settings):
    return build(PCRL, **settings)


def formulas(model, ordinary, momentum, whole):
    """L_di, the three errors, and the keys that enter the queue [n, 3, dim]."""
    clean, _, its = whole
    share, t = model.share(its.step, 0), model.temperature
    first, second = (its.distortions[i].orientations for i in range(2))
    queue, count = array(model.queue), len(clean[0])
    contrast, errors, keys = 0.0, np.zeros(3), []
    for i in range(count):
        o, m = sample(ordinary, i), sample(momentum, i)
        h = mixed(o, m, share)
        x1, x2 = array(clean[0])[i, 0], array(clean[1])[i, 0]
        q, k = unit(embedding(model.projector, o[-1])), unit(embedding(model.key_projector, m[-1]))
        keys.append([q, k, unit(embedding(model.projector, h[-1]))])
        positive = math.exp(q @ k / t)
        contrast -= math.log(positive / (positive + sum(math.exp(q @ n / t) for n in queue))) / count
        for b, (maps, image, orientation) in enumerate(
            [(o, x1, first[i, 0]), (m, x2, second[i, 0]), (h, share * x1 + (1 - share) * x2, first[i, 1])]
        ):
            image_out = restored(model, [*maps[:-1], attended(model, maps[-1], orientation)])
            errors[b] += squared_error(image_out, turned(image, orientation)) / count
    return contrast, errors, np.array(keys)


@pytest.mark.parametrize("attention", ["channel", "outer"])
def test_losses_are_the_formulas_on_given_feature_maps(attention):
    model, whole = method(attention=attention), batch(step=3)
    ordinary, momentum = pyramid(seed=1), pyramid(seed=2)
    model.encoder, model.key_encoder = Given(ordinary), Given(momentum)
    terms = model(*whole)
    contrast, errors, keys = formulas(model, ordinary, momentum, whole)
    assert terms.losses["di"].item() == pytest.approx(contrast, rel=1e-9)
    assert terms.losses["re"].item() == pytest.approx(errors.sum(), rel=1e-9)
    for name, error in zip(("ordinary", "momentum", "hybrid"), errors, strict=True):
        assert terms.monitors[f"re_{name}"].item() == pytest.approx(error, rel=1e-9)
    np.testing.assert_allclose(model._waiting[0][0], keys, rtol=1e-9)


def test_losses_are_the_formulas_of_the_networks_own_maps():
    model, whole = method(), batch()
    terms = model(*whole)
    ordinary, momentum = model.encoder(whole[1][0]), model.key_encoder(whole[1][1])
    contrast, errors, _ = formulas(model, ordinary, momentum, whole)
    assert terms.losses["di"].item() == pytest.approx(contrast, rel=1e-9)
    assert terms.losses["re"].item() == pytest.approx(errors.sum(), rel=1e-9)
    assert torch.equal(terms.pyramids[0][-1], ordinary[-1])


def test_what_is_handed_on_is_the_ordinary_encoders():
    model, whole = method(), batch()
    terms = model(*whole)
    orientation = whole[2].distortions[0].orientations[:, 0]
    assert torch.equal(terms.orientation, orientation)
    for i in range(4):
        np.testing.assert_array_equal(terms.target[i, 0], turned(array(whole[0][0])[i, 0], orientation[i]))
        o = sample(model.encoder(whole[1][0]), i)
        image = restored(model, [*o[:-1], attended(model, o[-1], orientation[i])])
        np.testing.assert_allclose(array(terms.restored)[i, 0], image, rtol=1e-9)
    first, second = terms.embeddings
    assert not first.requires_grad and not second.requires_grad


def test_maps_are_mixed_at_every_level():
    first, second, share = pyramid(seed=1), pyramid(seed=2), 0.3
    levels = blended(first, second, share)
    assert len(levels) == 3
    for level, a, b in zip(levels, first, second, strict=True):
        assert level.shape == a.shape
        np.testing.assert_allclose(level, 0.3 * a.numpy() + 0.7 * b.numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match="zip"):
        blended(first, second[:-1], share)


@pytest.mark.parametrize(("kind", "plain"), [(ChannelAttention, channel_attended), (OuterAttention, outer_attended)])
def test_attention_is_its_formula(kind, plain):
    torch.manual_seed(0)
    attention, features = kind(8, 2).double(), torch.randn(16, 8, 3, 3, dtype=torch.float64)
    orientations = torch.tensor(ALL, dtype=torch.uint8)
    result = attention(features, indicator(orientations))
    assert len({tuple(vector(o)) for o in ALL}) == 16
    for i in range(16):
        expected = plain(attention, array(features)[i], ALL[i])
        np.testing.assert_allclose(array(result)[i], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [ChannelAttention, OuterAttention])
def test_attention_works_under_autocast(kind):
    torch.manual_seed(0)
    attention, features = kind(8, 2), torch.randn(16, 8, 3, 3)
    orientations = torch.tensor(ALL, dtype=torch.uint8)
    exact = attention(features, indicator(orientations))
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(features.bfloat16(), indicator(orientations))
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


def test_shares_follow_the_beta_distribution():
    for alpha in (1.0, 0.5):
        model = method(alpha=alpha)
        drawn = [model.share(step, 0) for step in range(3000)]
        assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
        assert len(set(drawn)) == 3000
        again = [model.share(step, 1) for step in range(3000)]
        assert abs(np.corrcoef(drawn, again)[0, 1]) < 0.06


def test_the_share_is_a_matter_of_step_and_seed_alone(monkeypatch):
    first, second, other = method(seed=7), method(seed=7), method(seed=8)
    drawn = [first.share(step, 0) for step in range(20)]
    torch.manual_seed(99)  # as the loop does before every micro-batch
    np.random.seed(99)
    monkeypatch.setattr("dira_scale.methods.pcrl.rank", lambda: 1)
    monkeypatch.setattr("dira_scale.methods.pcrl.world", lambda: 2)
    assert [second.share(step, 0) for step in range(20)] == drawn
    assert not set(drawn) & {other.share(step, 0) for step in range(20)}


def test_micro_batches_have_one_share_and_make_the_same_step():
    """Without BatchNorm the mean of both halves' losses is the batch's, and so are the keys."""
    model, whole = method(), batch(count=8)
    terms = model(*whole)
    model._waiting.clear()
    halves = [model(*part(whole, samples)) for samples in (slice(0, 4), slice(4, 8))]
    for name, loss in terms.losses.items():
        mean = sum(half.losses[name].item() for half in halves) / 2
        assert loss.item() == pytest.approx(mean, rel=1e-9)


def parts_with_gradient(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_term_teaches_its_parts():
    """di: encoder and projector. re: encoder, attention, decoder and head. Never the momentum encoder."""
    for term, expected in (
        ("di", {"encoder", "projector"}),
        ("re", {"encoder", "attention", "decoder", "head"}),
    ):
        model = method()
        views = [view.requires_grad_() for view in batch()[1]]
        clean, _, its = batch()
        model(clean, tuple(views), its).losses[term].backward()
        assert parts_with_gradient(model) == expected
        assert views[0].grad.any() and views[1].grad is None
        assert model.queue.grad is None and not model.queue.requires_grad
    follow = [p for name, p in model.named_parameters() if name.startswith("key_")]
    assert follow and not any(p.requires_grad for p in follow)


def test_the_hybrid_maps_teach_the_encoder_by_their_share():
    """Their gradient is λ times that of maps that are the encoder's alone; the momentum encoder's maps get none."""
    model, (clean, distorted, its) = method(), batch()
    ordinary = pyramid(seed=1, gradient=True)
    momentum = pyramid(seed=2)
    share = model.share(0, 0)
    model.encoder, model.key_encoder = Given(ordinary), Given(momentum)
    gradients = torch.autograd.grad(model(clean, distorted, its).losses["re"], ordinary[1:])
    free = [x.clone().requires_grad_() for x in blended(ordinary, momentum, share)]
    alone = [x.detach().clone().requires_grad_() for x in ordinary]
    first = its.distortions[0].orientations
    expected = [torch.zeros_like(x) for x in ordinary[1:]]
    image = share * clean[0] + (1 - share) * clean[1]
    for maps, target, orientation, factor in ((alone, clean[0], first[:, 0], 1), (free, image, first[:, 1], share)):
        goal = torch.from_numpy(
            np.stack([turned(array(target)[i, 0], orientation[i]) for i in range(4)])[:, None].copy()
        )
        weighted = model.attention(maps[-1], indicator(orientation))
        loss = ((model.head(model.decoder([*maps[:-1], weighted])) - goal) ** 2).mean()
        for total, gradient in zip(expected, torch.autograd.grad(loss, maps[1:]), strict=True):
            total += factor * gradient
    for ours, total in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("terms", "trained"),
    [
        (["di"], {"encoder", "projector"}),
        (["re"], {"encoder", "attention", "decoder", "head"}),
        (["di", "re"], {"encoder", "projector", "attention", "decoder", "head"}),
    ],
)
def test_a_stage_computes_and_trains_its_terms(terms, trained):
    model = method()
    model.enter_stage(["di", "re"])
    model.enter_stage(terms)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == trained
    result = model(*batch())
    assert set(result.losses) == set(terms)
    assert (result.restored is None) == (terms == ["di"]) == (result.target is None)
    sum(result.losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.after_step()
    assert model.queue_pointer == 12  # the momentum encoder and the queue go on in every stage


def test_the_decoder_rests_while_only_contrast_is_trained(monkeypatch):
    model = method()
    monkeypatch.setattr(model.decoder, "forward", lambda _: pytest.fail("the decoder ran"))
    model.enter_stage(["di"])
    model(*batch())


def test_unknown_terms_are_refused():
    with pytest.raises(UserError, match="term 'ad': PCRL has di, re"):
        method().enter_stage(["di", "ad"])


def test_the_queue_is_a_list_that_forgets_its_oldest():
    """Thirty slots; steps of 8 images, three keys each: it wraps every time. Some steps have micro-batches."""
    model = method(queue=30)
    expected, slot = [array(key) for key in model.queue.clone()], 0
    for step in range(5):
        whole, cuts = batch(count=8, step=step), (1, 2, 4)[step % 3]
        before = model.queue.clone()
        share = model.share(step, 0)
        for cut in range(cuts):
            size = 8 // cuts
            model(*part(whole, slice(cut * size, (cut + 1) * size)))
            assert torch.equal(model.queue, before)
        own = []
        for o, m in zip(model.encoder(whole[1][0])[-1], model.key_encoder(whole[1][1])[-1], strict=True):
            o, m = array(o), array(m)
            h = embedding(model.projector, share * o + (1 - share) * m)
            own.append([unit(embedding(model.projector, o)), unit(embedding(model.key_projector, m)), unit(h)])
        model.after_step()
        for branch in range(3):  # all images' first keys, then all second ones, then all third ones
            for image in own:
                expected[slot % 30] = image[branch]
                slot += 1
        np.testing.assert_allclose(model.queue, np.stack(expected), rtol=1e-9, atol=1e-12)
        assert model.queue_pointer.item() == slot % 30 and not model._waiting
    assert (model.queue_age == 0).sum() == 24


def test_the_momentum_encoder_follows_only_after_the_step():
    model = method()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    before = {name: p.clone() for name, p in model.named_parameters() if name.startswith("key_")}
    sum(model(*batch()).losses.values()).backward()
    optimizer.step()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], p) for name, p in before.items())
    model.after_step()
    assert {name.split(".")[0] for name in before} == {"key_encoder", "key_projector"}
    for name, old in before.items():
        torch.testing.assert_close(now[name], 0.9 * old + 0.1 * now[name.removeprefix("key_")], rtol=1e-12, atol=1e-14)


def test_it_starts_as_a_copy():
    model = method()
    now = dict(model.named_parameters())
    for name, p in now.items():
        if name.startswith("key_"):
            assert torch.equal(p, now[name.removeprefix("key_")]) and p is not now[name.removeprefix("key_")]


def test_evaluation_changes_nothing():
    """Also between a step's micro-batches: keys that wait, and BatchNorm's statistics that do."""
    model = method(groups=2)
    model(*batch())
    waiting = list(model._waiting)
    pending = [module.pending for module in model.modules() if hasattr(module, "pending")]
    before = [x.clone() for x in (*model.state_dict().values(), *pending)]
    model.eval()
    losses = [model(*batch(count=3, step=2)).losses for _ in range(2)]
    assert pending and all(map(torch.equal, before, (*model.state_dict().values(), *pending)))
    assert len(model._waiting) == 1 and model._waiting[0] is waiting[0]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in ("di", "re"))
    model.train().after_step()
    assert model.queue_pointer == 12


def test_evaluation_does_not_depend_on_the_batchs_number():
    assert_number_does_not_matter(method().eval(), batch())


def test_evaluation_is_the_same_formula():
    model = method()
    model(*batch(step=5))
    model.after_step()
    model.eval()
    whole = batch(count=3, step=6)
    terms = model(*whole)
    contrast, errors, _ = formulas(model, model.encoder(whole[1][0]), model.key_encoder(whole[1][1]), whole)
    assert terms.losses["di"].item() == pytest.approx(contrast, rel=1e-9)
    assert terms.losses["re"].item() == pytest.approx(errors.sum(), rel=1e-9)
    assert terms.monitors["chance"].item() == pytest.approx(1 / 3)


def test_momentum_maps_of_several_groups_are_shuffled_and_put_back():
    """Each map must be what its own group of the shuffled batch gives, in the images' order, at every level."""
    model, (_, distorted, _) = method(groups=2), batch(count=8)
    images = distorted[1]
    maps, keys = model.momentum_features(images, step=7)
    order = torch.tensor(moco.permutation(8, 7, 0))
    assert order.tolist() != list(range(8))
    encoder = model.key_encoder
    assert torch.equal(maps[0], images)
    for group in order.chunk(2):
        raw = encoder.first(images[group])
        mean, var = raw.mean((0, 2, 3), keepdim=True), raw.var((0, 2, 3), correction=0, keepdim=True)
        first = ((raw - mean) / (var + encoder.norm.eps).sqrt()).relu()
        second = encoder.second(first).relu()
        torch.testing.assert_close(maps[1][group], first, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(maps[2][group], second, rtol=1e-9, atol=1e-12)
        for i, features in zip(group, second, strict=True):
            np.testing.assert_allclose(keys[i], embedding(model.key_projector, array(features)), rtol=1e-8, atol=1e-10)


def test_maps_have_the_same_shapes_in_both_encoders_whether_shuffled_or_not():
    """With an encoder that expands grey images to its stem's three channels."""
    torch.manual_seed(0)
    for groups in (1, 2):
        encoder = build_encoder("test_resnet", size=64)
        model = norm.convert(PCRL(UNet(encoder, (8,) * 5), ViewSpec(size=64, orientations=2), queue=24), groups).train()
        images = torch.rand(8, 1, 64, 64)
        ordinary, (momentum, _) = model.encoder(images), model.momentum_features(images, 0)
        assert [x.shape for x in ordinary] == [x.shape for x in momentum]


@pytest.mark.parametrize("training", [True, False])
def test_images_stay_in_order_where_nothing_is_to_hide(training, monkeypatch):
    model = method(groups=1 if training else 2).train(training)
    monkeypatch.setattr("dira_scale.methods.pcrl.exchange", lambda *_: pytest.fail("images were exchanged"))
    maps, _ = model.momentum_features(batch()[1][1], 0)
    expected = model.key_encoder(batch()[1][1])
    for ours, level in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, level)


def test_no_gradient_is_recorded_in_the_momentum_encoder():
    maps, keys = method(groups=2).momentum_features(batch(count=8)[1][1].requires_grad_(), 0)
    assert not keys.requires_grad and not any(x.requires_grad for x in maps[1:])


def test_a_step_in_half_precision_has_its_losses_in_float32():
    model, (clean, distorted, its) = method().float(), batch()
    views = [tuple(view.float() for view in pair) for pair in (clean, distorted)]
    exact = model(*views, its).losses
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(*views, its).losses
    for name, loss in rough.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)


@pytest.mark.parametrize(("attention", "count"), [("channel", 133_376), ("outer", 136_710_912)])
def test_parameters_of_the_full_networks(attention, count):
    """In the outer form: W has 512 · 512², the convolution 512 · 512 · 9 + 512, beside the embedding of ``channel``."""
    with torch.device("meta"):
        model = PCRL(UNet(build_encoder("resnet18")), ViewSpec(orientations=2), attention=attention)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {
        "encoder": 11_176_512, "key_encoder": 11_176_512, "projector": 82_176, "key_projector": 82_176,
        "decoder": 3_151_552, "head": 145, "attention": count,
    }  # fmt: skip


def test_the_queue_must_hold_a_steps_keys():
    method(queue=24).check(batch=8, accumulate=1)
    with pytest.raises(UserError, match="a queue of at least 27"):
        method(queue=24).check(batch=9, accumulate=1)


def test_a_micro_batch_of_one_group_is_refused():
    method(groups=4).check(batch=8, accumulate=2)
    with pytest.raises(UserError, match="bn_groups"):
        method(groups=2).check(batch=8, accumulate=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orientations": 1}, "views.orientations=1: PCRL needs 2 or more; use views=pcrl"),
        ({"alpha": 0.0}, "method.alpha: 0.0 must be a number above 0"),
        ({"alpha": math.inf}, "method.alpha: inf"),
        ({"alpha": math.nan}, "method.alpha: nan"),
        ({"attention": "chanel"}, "method.attention=chanel: expected channel or outer; did you mean 'channel'?"),
        ({"weights": {"di": 1.0}}, "method.weights: needs di and re, got di"),
        ({"weights": {"di": 1.0, "re": 1.0, "ad": 1.0}}, "method.weights: needs di and re"),
        ({"weights": {"di": 1.0, "re": -1.0}}, "method.weights.re: -1.0 must be a number of at least 0"),
        ({"weights": {"di": 1.0, "re": None}}, "method.weights.re: None"),
        ({"weights": {"di": math.inf, "re": 1.0}}, "method.weights.di: inf"),
        ({"momentum": 1.5}, "momentum"),
        ({"temperature": 0.0}, "temperature"),
        ({"queue": 0}, "queue"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError) as raised:
        method(**settings)
    assert message in str(raised.value)


def test_one_view_is_refused():
    encoder = build_encoder("test_resnet", size=64)
    with pytest.raises(UserError, match="needs 2 views"):
        PCRL(UNet(encoder), ViewSpec(count=1, size=64, orientations=2))
