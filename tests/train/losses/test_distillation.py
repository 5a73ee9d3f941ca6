"""The losses of self-distillation against their formulas, written plainly in float64."""

import math

import pytest
import torch
from lightly.loss.swav_loss import sinkhorn

from dira_scale.train.losses import prototypes as prototypes_
from dira_scale.train.losses.distillation import centred_softmax, cross_entropy, koleo, sinkhorn_knopp


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row):
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def balanced(rows, temperature):
    """Sinkhorn-Knopp as published: all sums to 1, then prototypes (of K) to 1 / K and rows (of n) to 1 / n in turn."""
    q = [[math.exp(value / temperature) for value in row] for row in rows]
    n, k = len(q), len(q[0])
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(3):
        columns = [sum(row[j] for row in q) for j in range(k)]
        q = [[row[j] / columns[j] / k for j in range(k)] for row in q]
        q = [[value / sum(row) / n for value in row] for row in q]
    return [[value * n for value in row] for row in q]


def test_the_cross_entropy_is_the_formula():
    teacher, student = drawn(5, 7).softmax(1), drawn(5, 7, seed=1).requires_grad_()
    rows = zip(teacher.tolist(), student.tolist(), strict=True)
    expected = [
        -sum(t * math.log(p) for t, p in zip(ts, softmax([s / 0.1 for s in ss]), strict=True)) for ts, ss in rows
    ]
    losses = cross_entropy(teacher, student, 0.1)
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(teacher, s, 0.1), student)
    assert not cross_entropy(drawn(5, 7).softmax(1).requires_grad_(), student.detach(), 0.1).requires_grad


def test_centring_is_the_formula():
    logits, centre = drawn(5, 7), drawn(7, seed=1)
    expected = [softmax([(x - c) / 0.04 for x, c in zip(row, centre.tolist(), strict=True)]) for row in logits.tolist()]
    found = centred_softmax(logits, centre, 0.04).probabilities()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("rows", "prototypes"), [(6, 9), (20, 4)])
def test_sinkhorn_knopp_is_the_formula_of_rows_that_are_present(rows, prototypes, monkeypatch):
    monkeypatch.setattr(prototypes_, "VALUES", 2 * prototypes)  # two rows at a time
    logits, present = drawn(rows, prototypes) / 4, torch.arange(rows) % 3 != 1
    expected = torch.tensor(balanced(logits.tolist(), 0.06), dtype=torch.float64)
    found = sinkhorn_knopp(logits, 0.06).probabilities()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)
    some = sinkhorn_knopp(logits, 0.06, present).probabilities()[present]
    torch.testing.assert_close(some, sinkhorn_knopp(logits[present], 0.06).probabilities(), rtol=1e-12, atol=1e-15)
    assert sinkhorn_knopp(logits, 0.06, torch.zeros(rows, dtype=torch.bool)).probabilities().isfinite().all()


@pytest.mark.parametrize(("rows", "prototypes"), [(6, 9), (20, 4)])
def test_sinkhorn_knopp_divides_rows_among_prototypes(rows, prototypes):
    """Rows sum to 1 after any number of iterations, prototypes get the same of them after many; lightly's after 3."""
    logits = drawn(rows, prototypes) / 4
    once, often = (sinkhorn_knopp(logits, 0.1, iterations=n).probabilities() for n in (1, 500))
    for found in (once, often):
        torch.testing.assert_close(found.sum(1), torch.ones_like(logits[:, 0]))
    torch.testing.assert_close(often.sum(0), torch.full_like(logits[0], rows / prototypes))
    assert (once.sum(0) - rows / prototypes).abs().max() > 0.1
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.1).probabilities(), sinkhorn(logits, 3, 0.1))


def test_no_temperature_overflows_sinkhorn_knopp():
    """The cosines of a temperature of 0.01 are past float32's exponential, unless they are shifted."""
    logits = torch.tensor([[1.0, 0.98, 0.9], [0.95, 1.0, 0.97]])
    expected = torch.tensor(balanced(logits.double().tolist(), 0.01))
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.01).probabilities(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("targets", ["sinkhorn", "softmax"])
def test_targets_without_a_matrix_are_those_with_one(targets, monkeypatch):
    """The cross-entropy and its gradient, of rows that are cut and of a last part that is shorter."""
    monkeypatch.setattr(prototypes_, "VALUES", 3 * 7)
    logits, student = drawn(8, 7), drawn(8, 7, seed=1).requires_grad_()
    found = sinkhorn_knopp(logits, 0.5) if targets == "sinkhorn" else centred_softmax(logits, drawn(7, seed=2), 0.5)
    plain = cross_entropy(found.probabilities(), student, 0.1)
    torch.testing.assert_close(cross_entropy(found, student, 0.1), plain, rtol=1e-13, atol=1e-15)
    weights = drawn(8, seed=3)
    slopes = [torch.autograd.grad((x * weights).sum(), student)[0] for x in (cross_entropy(found, student, 0.1), plain)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(found, s, 0.1), student)


def test_koleo_is_the_formula_and_its_gradient():
    features = drawn(6, 4).requires_grad_()
    unit = [[value / math.hypot(*row) for value in row] for row in features.tolist()]
    nearest = [min(math.dist(a, b) for j, b in enumerate(unit) if i != j) for i, a in enumerate(unit)]
    expected = -sum(math.log(distance) for distance in nearest) / 6
    assert koleo(features).item() == pytest.approx(expected, rel=1e-7)  # 1e-8 is added to distances
    assert torch.autograd.gradcheck(koleo, features)
    parts = [koleo(features[i : i + 2], features, i) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), koleo(features), rtol=1e-12, atol=0)


def test_half_precision_is_computed_in_float32():
    teacher, student = drawn(5, 7).softmax(1).float(), drawn(5, 7, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        targets = sinkhorn_knopp(student, 1.0), centred_softmax(student, torch.zeros(7), 0.04)
        matrices = [each.probabilities() for each in targets]
        found = cross_entropy(teacher, student, 0.1), cross_entropy(targets[0], student, 0.1), koleo(student)
    assert all(x.dtype == torch.float32 for x in (*found, *matrices))
    torch.testing.assert_close(found[1], cross_entropy(matrices[0], student, 0.1))
    trained = student.clone().requires_grad_()
    cross_entropy(targets[1], trained, 0.1).sum().backward()
    assert trained.grad.dtype == torch.bfloat16
    assert torch.equal(found[0], cross_entropy(teacher, student.float(), 0.1))
    assert torch.equal(found[2], koleo(student.float()))
