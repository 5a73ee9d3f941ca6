"""MoCo on one process, against plain formulas and a list for a queue; several processes: test_processes.py."""

import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from train.methods.tiny import forward, method, views

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.losses.info_nce import info_nce
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.shuffle import permutation, transposition


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=1)


def test_info_nce_is_lightlys():
    """Its memory bank filled with our queue; gradients before the normalisation, which is its own."""
    torch.manual_seed(0)
    raw, keys, queue = torch.randn(6, 5, requires_grad=True), unit(6, 5).float(), unit(24, 5).float()
    peer = lightly.loss.NTXentLoss(temperature=0.2, memory_bank_size=(24, 5))
    peer.memory_bank.bank = queue.clone()
    ours, theirs = info_nce(F.normalize(raw, dim=1), keys, queue, 0.2), peer(raw, keys)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    gradients = (torch.autograd.grad(loss, raw)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_info_nce_stays_in_float32_under_autocast():
    q, k, queue = unit(6, 5).float(), unit(6, 5).float(), unit(24, 5).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(q, k, queue, 0.2)
    assert torch.equal(inside, info_nce(q, k, queue, 0.2))


def test_forward_is_the_formula_on_its_own_embeddings():
    model, images = method(MoCo, groups=1), views()
    terms = forward(model, images)
    q = F.normalize(model.projector(model.encoder(images[0])[-1]), dim=1)
    k = F.normalize(model.key_projector(model.key_encoder(images[1])[-1]), dim=1)
    torch.testing.assert_close(terms.losses["di"], info_nce(q, k, model.queue, 0.2))
    hits = [max(range(8), key=lambda j: q[i].dot(k[j]).item()) == i for i in range(8)]
    [measure] = terms.deferred
    assert measure()["top1"].item() == pytest.approx(sum(hits) / 8)
    assert measure()["chance"].item() == 1 / 8
    assert torch.equal(terms.pyramids[0][-1], model.encoder(images[0])[-1])


def test_gradients_stop_at_keys_and_queue():
    model = method(MoCo, groups=1)
    first, second = (view.requires_grad_() for view in views())
    forward(model, (first, second)).losses["di"].backward()
    assert first.grad.abs().sum() > 0 and second.grad is None
    assert all(p.grad is not None for p in [*model.encoder.parameters(), *model.projector.parameters()])
    keys = [*model.key_encoder.parameters(), *model.key_projector.parameters()]
    assert all(p.grad is None and not p.requires_grad and p.dtype == torch.float32 for p in keys)
    assert model.queue.grad is None and not model.queue.requires_grad


def test_queue_is_a_list_that_forgets_its_oldest():
    """Three slots of 8; five steps, the third and fourth of two micro-batches."""
    model = method(MoCo, groups=1)
    expected = list(model.queue.clone())
    slot = 0
    for step in range(5):
        parts = 2 if step in (2, 3) else 1
        images = views(seed=step)
        for part in range(parts):
            micro = tuple(view.chunk(parts)[part] for view in images)
            before = model.queue.clone()
            forward(model, micro, step)
            assert torch.equal(model.queue, before)
        keys = F.normalize(model.key_projector(model.key_encoder(images[1])[-1]), dim=1)
        model.after_step()
        for key in keys:
            expected[slot % 24] = key
            slot += 1
        torch.testing.assert_close(model.queue, torch.stack(expected))
        assert model.queue_pointer.item() == slot % 24
    torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(24))


def test_share_of_the_queue_that_is_fresh():
    """Momentum 0.5: keys of the last two steps count, 8 of 24 slots each; random ones never; looking ages none."""
    model, shares = method(MoCo, groups=1, momentum=0.5), []
    for step in range(5):
        for _ in range(2):
            shares.append(forward(model.eval(), views()).monitors["queue_fresh"].item())
        forward(model.train(), views(), step)
        model.after_step()
    assert shares[::2] == shares[1::2] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    frozen = method(MoCo, groups=1, momentum=1.0)
    forward(frozen, views())
    frozen.after_step()
    assert forward(frozen, views()).monitors["queue_fresh"].item() == pytest.approx(1 / 3)


def test_momentum_encoder_follows_only_after_the_step():
    model, images = method(MoCo, groups=1), views()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    key = {n: p.clone() for n, p in model.named_parameters() if n.startswith("key_")}
    forward(model, images).losses["di"].backward()
    optimizer.step()
    now = dict(model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in key.items())
    model.after_step()
    assert any(not torch.equal(now[n], p) for n, p in key.items())
    for name, before in key.items():
        torch.testing.assert_close(now[name], 0.9 * before + 0.1 * now[name.removeprefix("key_")])


def test_keys_of_an_evaluation_do_not_enter_the_queue():
    model = method(MoCo).eval()
    forward(model, views())
    with pytest.raises(AssertionError, match="training"):
        model.after_step()
    model.train()
    forward(model, views())
    model.after_step()
    assert model.queue_pointer == 8


@pytest.mark.parametrize("kind", ("blocks", "batch"))
def test_shuffled_keys_are_those_of_permuted_groups(kind):
    """Two BatchNorm groups of four: each key must be what its own group of the shuffled batch gives."""
    model, (_, images) = method(MoCo, groups=2, shuffle=kind), views()
    keys = model.unit(model.keys(images, step=7))
    order = torch.tensor({"blocks": transposition(8, 2), "batch": permutation(8, 7, 0)}[kind])
    for group in order.chunk(2):
        features = model.key_encoder.stem(images[group])
        mean, var = features.mean((0, 2, 3), keepdim=True), features.var((0, 2, 3), correction=0, keepdim=True)
        expected = F.normalize(model.key_projector((features - mean) / (var + 1e-5).sqrt()), dim=1)
        torch.testing.assert_close(keys[group], expected)


def test_queue_that_the_batch_does_not_divide_is_refused_with_one_that_would_do():
    method(MoCo, groups=1).check(batch=12, accumulate=1)
    with pytest.raises(ArgumentError, match=r"^queue: expected a multiple of the batch of 10, such as 20, .*, got 24$"):
        method(MoCo, groups=1).check(batch=10, accumulate=1)
