"""The Gram anchor's loss and the reduction of its anchor's map, against plain sums in float64."""

import math

import pytest
import torch
from train.losses.test_distillation import drawn

from dira_scale.train.losses.gram import gram_loss, reduced


def plain(features, anchor):
    """Pair by pair."""

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    total = 0.0
    for of_student, of_anchor in zip(features, anchor, strict=True):
        for i in range(len(of_student)):
            for j in range(len(of_student)):
                total += (cosine(of_student[i], of_student[j]) - cosine(of_anchor[i], of_anchor[j])) ** 2
    return total / len(features) / len(features[0]) ** 2


def test_the_loss_is_the_formula_and_its_gradient():
    features, anchor = drawn(2, 5, 3).requires_grad_(), drawn(2, 5, 4, seed=1).requires_grad_()
    loss = gram_loss(features, anchor)
    assert loss.item() == pytest.approx(plain(features.tolist(), anchor.tolist()), rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: gram_loss(x, anchor), features)
    loss.backward()
    assert features.grad.any() and anchor.grad is None
    turn = torch.linalg.qr(drawn(3, 3, seed=2))[0]
    assert gram_loss(7 * features @ turn, features).item() < 1e-28  # neither lengths nor a common turn count
    with torch.autocast("cpu", torch.bfloat16):
        assert gram_loss(features.bfloat16(), anchor.bfloat16()).dtype == torch.float32


def cubic(x):
    """Keys' filter with a = -3/4."""
    x = abs(x)
    return (1.25 * x - 2.25) * x**2 + 1 if x < 1 else -0.75 * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def test_a_map_is_reduced_by_cubic_convolution():
    patches, (rows, columns) = drawn(2, 24, 3), (4, 6)
    maps, expected = patches.unflatten(1, (rows, columns)), torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    for i in range(2):
        for j in range(3):
            y, x = 2 * i + 0.5, 2 * j + 0.5  # of a large map, the middle of a patch of the small one
            for r in range(-3, rows + 3):
                for c in range(-3, columns + 3):
                    at = maps[:, min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)]
                    expected[:, i, j] += cubic(r - y) * cubic(c - x) * at
    found = reduced(patches, [rows, columns], [2, 3])
    torch.testing.assert_close(found, expected.flatten(1, 2), rtol=1e-12, atol=1e-14)
    assert reduced(patches, [4, 6], [4, 6]) is patches
