"""PCRL as released, against its formulas written plainly (``pcrl_parts``); the authors' code: test_pcrl_authors.py."""

import inspect
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
    embedding,
    mixed,
    part,
    pyramid,
    restored,
    sample,
    squared_error,
    turned,
    unit,
)
from safetensors.torch import save_file

from dira_scale.data.views import ViewSpec
from dira_scale.methods import construct, pcrl_released
from dira_scale.methods.moco import permutation
from dira_scale.methods.pcrl import PCRL
from dira_scale.methods.pcrl_released import MIXUP, PCRLReleased, exponentials, nce
from dira_scale.models.encoder import build_encoder
from dira_scale.models.unet import UNet

ERRORS = ("ordinary", "hybrid", "mixed", "mixed_hybrid")


def method(**settings):
    return build(PCRLReleased, **settings)


def folded(model, step, draw):
    share = model.share(step, draw)
    return max(share, 1 - share)


def plain_nce(queries, keys, queue, temperature, normaliser, batches, epsilon=0.0):
    """Binary NCE as a loop, with the number of batches n: P = exp(s/t) / (n Z), a noise probability of 1 / n."""
    noise, total = len(queue) / batches, 0.0
    for q, k in zip(queries, keys, strict=True):
        positive = math.exp(q @ k / temperature) / (batches * normaliser)
        total -= math.log(positive / (positive + noise + epsilon))
        for n in queue:
            negative = math.exp(q @ n / temperature) / (batches * normaliser)
            total -= math.log(noise / (negative + noise + epsilon))
    return total / len(queries)


def mean_exponential(queries, keys, queue, temperature):
    values = []
    for q, k in zip(queries, keys, strict=True):
        values += [math.exp(q @ each / temperature) for each in (k, *queue)]
    return sum(values) / len(values)


def formulas(model, maps, whole, order, share_of_images, normaliser=None):
    """L_di, the four errors, and the three keys of each image; ``maps``: of both encoders in both passes."""
    ordinary, momentum, mixed_ordinary, mixed_momentum = maps
    clean, distorted, its = whole
    step, t, count = its.step, model.temperature, len(clean[0])
    share, mixed_share, mu = folded(model, step, 0), folded(model, step, 2), share_of_images
    first, second = (its.distortions[i].orientations[:, 0] for i in range(2))

    def mixture(values):
        return [mu * values[i] + (1 - mu) * values[order[i]] for i in range(count)]

    raw_keys = [embedding(model.key_projector, sample(momentum, i)[-1]) for i in range(count)]
    q = [unit(embedding(model.projector, sample(ordinary, i)[-1])) for i in range(count)]
    k = [unit(key) for key in raw_keys]
    q2 = [unit(embedding(model.projector, sample(mixed_ordinary, i)[-1])) for i in range(count)]
    k2 = [unit(embedding(model.key_projector, sample(mixed_momentum, i)[-1])) for i in range(count)]
    k3 = [unit(key) for key in mixture(raw_keys)]
    queue, contrast, slot = [*array(model.queue).copy()], 0.0, int(model.queue_pointer)
    normaliser = normaliser or mean_exponential(q, k, queue, t)
    for queries, keys in ((q, k), (q2, k2), (q2, k3)):
        contrast += plain_nce(queries, keys, queue, t, normaliser, batches=1227) / 3
        if model.training:
            for key in keys:
                queue[slot % len(queue)] = key
                slot += 1

    clean1, clean2 = (mixture(array(view)[:, 0]) for view in clean)
    errors = dict.fromkeys(ERRORS, 0.0)
    for i in range(count):
        o, m = sample(ordinary, i), sample(momentum, i)
        o[-1], m[-1] = attended(model, o[-1], first[i]), attended(model, m[-1], second[i])
        target1 = turned(array(distorted[0])[i, 0], first[i])
        target2 = turned(array(distorted[1])[i, 0], second[i])
        o2, m2 = sample(mixed_ordinary, i), sample(mixed_momentum, i)
        for name, levels, target in (
            ("ordinary", o, target1),
            ("hybrid", mixed(o, m, share), share * target1 + (1 - share) * target2),
            ("mixed", o2, clean1[i]),
            ("mixed_hybrid", mixed(o2, m2, mixed_share), mixed_share * clean1[i] + (1 - mixed_share) * clean2[i]),
        ):
            errors[name] += squared_error(restored(model, levels), target) / count
    return contrast, errors, np.stack([k, k2, k3], axis=1), normaliser


def assert_formulas(terms, contrast, errors):
    assert terms.losses["di"].item() == pytest.approx(contrast, rel=1e-9)
    for name, error in errors.items():
        assert terms.monitors[f"re_{name}"].item() == pytest.approx(error, rel=1e-9)
    assert terms.losses["re"].item() == pytest.approx(4.425**2 * sum(errors.values()) / 4, rel=1e-9)


@pytest.mark.parametrize("attention", ["channel", "outer"])
def test_losses_are_the_formulas_on_given_feature_maps(attention):
    model, whole = method(attention=attention, orientations=1), batch(step=3, orientations=1)
    maps = [pyramid(seed=seed) for seed in range(4)]
    model.encoder, model.key_encoder = Given(maps[0], maps[2]), Given(maps[1], maps[3])
    order = permutation(4, 3, MIXUP)
    assert order.tolist() != list(range(4))
    contrast, errors, keys, normaliser = formulas(model, maps, whole, order, folded(model, 3, 1))
    terms = model(*whole)
    assert_formulas(terms, contrast, errors)
    np.testing.assert_allclose(model._waiting[0][0], keys, rtol=1e-9)
    assert model.normaliser.item() == pytest.approx(normaliser, rel=1e-9)


def own_maps(model, whole, order, mu):
    """Of the networks on the views and on their mixtures."""
    x1, x2 = whole[1]
    mixed1, mixed2 = (mu * x + (1 - mu) * x[torch.tensor(order)] for x in (x1, x2))
    return model.encoder(x1), model.key_encoder(x2), model.encoder(mixed1), model.key_encoder(mixed2)


def test_losses_are_the_formulas_of_the_networks_own_maps_step_after_step():
    """The normaliser stays the first step's; the queue of 30 wraps."""
    model, normaliser = method(queue=30), None
    for step in range(4):
        whole = batch(step=step)
        order, mu = permutation(4, step, MIXUP), folded(model, step, 1)
        contrast, errors, _, normaliser = formulas(
            model, own_maps(model, whole, order, mu), whole, order, mu, normaliser
        )
        assert_formulas(model(*whole), contrast, errors)
        model.after_step()
    assert model.normaliser.item() == pytest.approx(normaliser, rel=1e-9)


def test_binary_nce_is_the_formula_with_any_number_of_batches():
    """Without its epsilon; a single query also works."""
    rng = np.random.default_rng(0)
    for count in (1, 5):
        q, k, queue = (np.stack([unit(x) for x in rng.normal(size=(n, 6))]) for n in (count, count, 40))
        scores = exponentials(*map(torch.from_numpy, (q, k, queue)), 0.2)
        z = mean_exponential(q, k, queue, 0.2)
        assert scores.mean().item() == pytest.approx(z, rel=1e-12)
        for batches in (1, 3, 1227):
            expected = plain_nce(q, k, queue, 0.2, z, batches)
            assert nce(scores / z).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batches", [10, 1227])
def test_the_epsilon_that_is_left_out_adds_its_share_of_the_noise_to_the_loss(batches):
    """1e-5 n (1 + 1/K): 0.01 at ChestX-ray14's 1,227 batches of 64; in the gradient, 1e-5 n / K of each part."""
    rng = np.random.default_rng(0)
    q, k, queue = (np.stack([unit(x) for x in rng.normal(size=(n, 6))]) for n in (4, 4, 500))
    q, k, queue = map(torch.from_numpy, (q, k, queue))
    z = exponentials(q, k, queue, 0.2).mean()
    results = []
    for epsilon in (0.0, 1e-5):
        x = q.clone().requires_grad_()
        ratios, noise = exponentials(x, k, queue, 0.2) / (z * batches), 500 / batches
        positive, negative = ratios[:, :1], ratios[:, 1:]
        terms = (positive / (positive + noise + epsilon)).log(), (noise / (negative + noise + epsilon)).log()
        loss = -torch.cat(terms, dim=1).sum(dim=1).mean()
        results.append((loss.item(), torch.autograd.grad(loss, x)[0]))
    (loss, gradient), (released, released_gradient) = results
    x = q.clone().requires_grad_()
    nce(exponentials(x, k, queue, 0.2) / z).backward()
    assert nce(exponentials(q, k, queue, 0.2) / z).item() == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(x.grad, gradient, rtol=1e-9, atol=1e-12)
    assert released - loss == pytest.approx(1e-5 * batches * (1 + 1 / 500), rel=0.02)
    assert (released_gradient - gradient).norm() < 2 * 1e-5 * batches / 500 * gradient.norm()


def test_scores_stay_in_float32_under_autocast():
    torch.manual_seed(0)
    q, k, queue = (torch.nn.functional.normalize(torch.randn(n, 6), dim=1) for n in (4, 4, 30))
    with torch.autocast("cpu", torch.bfloat16):
        inside = exponentials(q, k, queue, 0.2)
    assert torch.equal(inside, exponentials(q, k, queue, 0.2)) and inside.dtype == torch.float32


def test_shares_are_at_least_a_half():
    model = method()
    for draw in range(3):
        drawn = [model._folded(step, draw) for step in range(200)]
        assert all(0.5 <= share <= 1 for share in drawn)
        assert drawn == [folded(model, step, draw) for step in range(200)]
    assert len({model._folded(0, draw) for draw in range(3)}) == 3


def test_images_are_mixed_with_others_of_their_micro_batch():
    """The same share in every micro-batch of a step, another order."""
    model, step = method(), 4
    numbers = torch.arange(8.0).double()
    mu = folded(model, step, 1)
    seen = []
    for waiting in range(3):
        model._waiting = [None] * waiting
        images, keys = model._mixup(numbers.view(8, 1, 1, 1).expand(8, 2, 3, 3), numbers.view(8, 1), step)
        partner = (keys[:, 0] - mu * numbers) / (1 - mu)
        np.testing.assert_allclose(images, keys.view(8, 1, 1, 1).expand(8, 2, 3, 3), rtol=1e-12)
        seen.append(partner.round().int().tolist())
        assert sorted(seen[-1]) == list(range(8))
        np.testing.assert_allclose(partner, seen[-1], atol=1e-9)
    assert seen[0] != seen[1] != seen[2]


def test_the_second_pass_has_neither_attention_nor_a_turned_target(monkeypatch):
    model, calls = method(), []
    attention = model.attention.forward
    monkeypatch.setattr(model.attention, "forward", lambda *given: (calls.append(1), attention(*given))[1])
    turns = []
    reorient = pcrl_released.reorient
    monkeypatch.setattr(pcrl_released, "reorient", lambda x, o: (turns.append(x), reorient(x, o))[1])
    whole = batch()
    terms = model(*whole)
    assert len(calls) == 2
    assert len(turns) == 2 and all(a is b for a, b in zip(turns, whole[1], strict=True))  # of distorted views
    assert terms.orientation is None


def test_what_is_handed_on_is_the_second_pass():
    model, whole = method(), batch(step=2)
    terms = model(*whole)
    order, mu = permutation(4, 2, MIXUP), folded(model, 2, 1)
    maps = own_maps(model, whole, order, mu)
    expected = mu * whole[0][0] + (1 - mu) * whole[0][0][torch.tensor(order)]
    torch.testing.assert_close(terms.target, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        terms.restored, model.head(model.decoder(maps[2])) / model.target_scale, rtol=1e-9, atol=1e-12
    )
    assert torch.equal(terms.pyramids[0][-1], maps[0][-1])


def test_evaluation_mixes_no_images_and_changes_nothing():
    model = method(groups=1)
    model(*batch(step=1))
    model.after_step()
    model(*batch(step=2))
    normaliser, waiting = model.normaliser.item(), list(model._waiting)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    whole = batch(count=3, step=3)
    terms = model(*whole)
    maps = own_maps(model, whole, list(range(3)), 1.0)
    contrast, errors, _, _ = formulas(model, maps, whole, list(range(3)), 1.0, normaliser)
    assert_formulas(terms, contrast, errors)
    assert torch.equal(terms.target, whole[0][0])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(model._waiting) == 1 and model._waiting[0] is waiting[0]


def test_evaluation_does_not_depend_on_the_batchs_number():
    assert_number_does_not_matter(method().eval(), batch())


def test_evaluation_before_training_normalises_for_itself():
    model, whole = method().eval(), batch()
    terms = model(*whole)
    maps = own_maps(model, whole, list(range(4)), 1.0)
    contrast, errors, _, _ = formulas(model, maps, whole, list(range(4)), 1.0)
    assert_formulas(terms, contrast, errors)
    assert model.normaliser == 0


def test_evaluation_leaves_batch_norm_alone():
    model = method(groups=2)
    model(*batch())
    pending = [module.pending for module in model.modules() if hasattr(module, "pending")]
    before = [x.clone() for x in (*model.state_dict().values(), *pending)]
    model.eval()
    model(*batch())
    assert pending and all(map(torch.equal, before, (*model.state_dict().values(), *pending)))


def parts_with_gradient(model):
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_term_teaches_its_parts():
    for term, expected in (("di", {"encoder", "projector"}), ("re", {"encoder", "attention", "decoder", "head"})):
        model = method()
        model(*batch()).losses[term].backward()
        assert parts_with_gradient(model) == expected
        assert model.queue.grad is None and not model.normaliser.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in model.key_encoder.parameters())


def test_the_normaliser_and_the_keys_are_constants_of_the_gradient():
    """The gradient of L_di is that of a plain formula whose Z, keys and queue are numbers."""
    model, whole = method(), batch(step=1)
    order, mu = permutation(4, 1, MIXUP), folded(model, 1, 1)
    maps = own_maps(model, whole, order, mu)
    queue = model.queue.clone()
    (gradient,) = torch.autograd.grad(model(*whole).losses["di"], model.encoder.first.weight)
    keys = model._waiting[0][0].unbind(1)
    q, q2 = (torch.nn.functional.normalize(model.projector(levels[-1]), dim=1) for levels in (maps[0], maps[2]))
    total = 0.0
    for number, (queries, key) in enumerate(((q, keys[0]), (q2, keys[1]), (q2, keys[2]))):
        positive = (((queries * key).sum(1)) / 0.2).exp() / model.normaliser
        negative = (queries @ queue.T / 0.2).exp() / model.normaliser
        count = len(queue)
        total = total - (positive / (positive + count)).log().mean() / 3
        total = total - (count / (negative + count)).log().sum(1).mean() / 3
        queue = queue.clone()
        queue[4 * number : 4 * number + 4] = key
    (expected,) = torch.autograd.grad(total, model.encoder.first.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("terms", [["di"], ["re"], ["di", "re"]])
def test_a_stage_computes_and_trains_its_terms(terms):
    model = method()
    model.enter_stage(["di", "re"])
    model.enter_stage(terms)
    result = model(*batch())
    assert set(result.losses) == set(terms)
    assert (result.restored is None) == (terms == ["di"]) == (result.target is None)
    sum(result.losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    parts = {"di": {"encoder", "projector"}, "re": {"encoder", "attention", "decoder", "head"}}
    assert trained == set().union(*(parts[term] for term in terms))
    model.after_step()
    assert model.queue_pointer == 12


def test_the_queue_is_a_list_that_forgets_its_oldest():
    """Keys of views, of mixed views, and mixed keys, each call's after the other's; it wraps; some micro-batches."""
    model = method(queue=30)
    expected, slot = [array(key) for key in model.queue.clone()], 0
    for step in range(5):
        whole, cuts = batch(count=8, step=step), (1, 2, 4)[step % 3]
        size, mu, own = 8 // cuts, folded(model, step, 1), []
        before = model.queue.clone()
        for cut in range(cuts):
            piece = part(whole, slice(cut * size, (cut + 1) * size))
            order = permutation(size, step, MIXUP + cut)
            _, momentum, _, mixed_momentum = own_maps(model, piece, order, mu)
            raw = [embedding(model.key_projector, array(each)) for each in momentum[-1]]
            for i in range(size):
                new = embedding(model.key_projector, array(mixed_momentum[-1][i]))
                both = mu * raw[i] + (1 - mu) * raw[order[i]]
                own.append([unit(raw[i]), unit(new), unit(both)])
            model(*piece)
            assert torch.equal(model.queue, before)
        model.after_step()
        for call in range(3):
            for image in own:
                expected[slot % 30] = image[call]
                slot += 1
        np.testing.assert_allclose(model.queue, np.stack(expected), rtol=1e-9, atol=1e-12)
        assert model.queue_pointer.item() == slot % 30 and not model._waiting


def test_the_momentum_encoder_follows_only_after_the_step():
    model = method()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    before = {name: p.clone() for name, p in model.named_parameters() if name.startswith("key_")}
    sum(model(*batch()).losses.values()).backward()
    optimizer.step()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], p) for name, p in before.items())
    model.after_step()
    for name, old in before.items():
        torch.testing.assert_close(now[name], 0.9 * old + 0.1 * now[name.removeprefix("key_")], rtol=1e-12, atol=1e-14)


def test_both_passes_shuffle_alike_and_put_maps_back():
    """As released, one shuffle a step. BatchNorm groups of the shuffled images, in both passes."""
    model, whole = method(groups=2), batch(count=8, step=7)
    seen = []
    model.key_encoder.register_forward_hook(lambda _, given, maps: seen.append((given[0], maps)))
    terms = model(*whole)
    order, mu = torch.tensor(permutation(8, 7, 0)), folded(model, 7, 1)
    partners = torch.tensor(permutation(8, 7, MIXUP))
    x2 = whole[1][1]
    assert torch.equal(seen[0][0], x2[order])
    torch.testing.assert_close(seen[1][0], (mu * x2 + (1 - mu) * x2[partners])[order], rtol=1e-12, atol=0)
    clean1, clean2 = (mu * x + (1 - mu) * x[partners] for x in whole[0])
    share = folded(model, 7, 2)
    momentum = [level[torch.argsort(order)] for level in seen[1][1]]
    maps = [
        share * a + (1 - share) * b
        for a, b in zip(model.encoder(mu * whole[1][0] + (1 - mu) * whole[1][0][partners]), momentum, strict=True)
    ]
    error = ((model.head(model.decoder(maps)) / model.target_scale - share * clean1 - (1 - share) * clean2) ** 2).mean()
    assert terms.monitors["re_mixed_hybrid"].item() == pytest.approx(error.item(), rel=1e-9)


def test_the_normaliser_is_the_first_batchs_and_is_kept():
    model = method()
    model(*batch(step=0))
    first = model.normaliser.item()
    model.after_step()
    model(*batch(step=1))
    assert model.normaliser.item() == first > 0
    assert "normaliser" in model.state_dict()


def test_a_first_batch_that_is_not_a_number_does_not_set_the_normaliser_for_good():
    model, (clean, (first, second), its) = method(), batch()
    model(clean, (first * math.nan, second), its)
    model._waiting.clear()
    model(*batch())
    assert model.normaliser.isfinite() and model.normaliser > 0


def test_one_orientation_a_view_is_enough():
    assert torch.isfinite(method(orientations=1)(*batch(orientations=1)).losses["re"])


@pytest.mark.parametrize("kind", [PCRL, PCRLReleased])
def test_the_error_is_that_of_scaled_predictions_of_a_scaled_target(kind):
    """Of two heads that restore the same image, the one on a scale of 4 has 16 times the loss, 4 times the gradient."""
    plain, scaled = (build(kind, target_scale=scale) for scale in (1.0, 4.0))
    with torch.no_grad():
        for parameter in scaled.head.parameters():
            parameter *= 4
    whole = batch()
    terms = [model(*whole) for model in (plain, scaled)]
    assert torch.allclose(terms[0].restored, terms[1].restored, rtol=1e-12, atol=0)
    assert terms[1].losses["re"].item() == pytest.approx(16 * terms[0].losses["re"].item(), rel=1e-12)
    for each in terms:
        each.losses["re"].backward()
    assert torch.allclose(4 * plain.head.weight.grad, scaled.head.weight.grad, rtol=1e-9, atol=1e-15)


def test_default_settings_are_the_released_codes():
    assert method().weights == {"di": 1.0, "re": 1.0} and method().target_scale == 4.425
    defaults = {name: p.default for name, p in inspect.signature(PCRLReleased).parameters.items()}
    assert defaults["momentum"] == 0.999 and defaults["queue"] == 16384 and defaults["dim"] == 128
    assert defaults["temperature"] == 0.2 and defaults["alpha"] == 1.0 and defaults["attention"] == "channel"


def test_a_head_that_started_elsewhere_predicts_the_same_image(tmp_path):
    """Weights of files and runs predict images; a head on another scale gets them multiplied."""
    torch.manual_seed(0)
    given = UNet(build_encoder("test_resnet", size=32), (8,) * 5)
    save_file(given.state_dict(), tmp_path / "unet.safetensors")
    node = {"_target_": "dira_scale.methods.pcrl_released.PCRLReleased", "dim": 8, "queue": 96, "target_scale": 4.0}
    model = {"encoder": "test_resnet", "weights": str(tmp_path / "unet.safetensors"), "decoder_channels": [8] * 5}
    method = construct(node, model | {"bn_groups": 1}, ViewSpec(size=32, orientations=1))
    torch.testing.assert_close(method.head.weight, 4 * given.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(method.encoder.state_dict(), given.encoder.state_dict(), rtol=0, atol=0)
