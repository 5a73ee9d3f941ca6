"""SIGReg against algorithm 1 of its paper, written plainly in float64, and against exact integrals."""

import math

import numpy as np
import pytest
import torch

from dira_scale.train.losses.sigreg import epps_pulley
from dira_scale.train.methods.lejepa import directions


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(x):
    """The statistic of samples x [n], by the trapezoidal rule over the whole of [-5, 5], in complex numbers."""
    t = np.linspace(-5, 5, 17)
    normal = np.exp(-(t**2) / 2)
    distances = np.abs(np.exp(1j * x[:, None] * t).mean(0) - normal) ** 2 * normal
    return len(x) * sum((distances[i] + distances[i + 1]) / 2 * (10 / 16) for i in range(16))


def test_the_statistic_is_algorithm_1_and_differentiable():
    x = (2 * drawn(2, 6, 3) + 0.5).requires_grad_()
    expected = [[plain(x[view, :, k].detach().numpy()) for k in range(3)] for view in range(2)]
    torch.testing.assert_close(epps_pulley(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(epps_pulley, x)


def test_samples_of_several_processes_count_once_each():
    x, sums = drawn(6, 3), []
    for part in (x[:2], x[2:]):
        epps_pulley(part, lambda own: sums.append(own) or own)
    torch.testing.assert_close(epps_pulley(x[:2], lambda own: sum(sums)), epps_pulley(x), rtol=1e-12, atol=0)


def test_normal_embeddings_are_near_and_collapsed_ones_far():
    """The expected value of N(0, I), and that of embeddings which all are 0: the integrals are of normal densities."""
    a, b, c = (math.sqrt(2 * math.pi / k) for k in (1, 2, 3))
    draws = [drawn(256, 64, seed=seed) @ directions(64, 512, seed).double() for seed in range(16)]  # each 5 % off
    assert np.mean([epps_pulley(along).mean() for along in draws]) == pytest.approx(a - c, rel=0.05)
    along = draws[0]
    assert epps_pulley(0 * along).mean().item() == pytest.approx(256 * (a - 2 * b + c), rel=1e-3)
    for other in (2 * along, along / 2, along + 1, along.sign()):  # of unit variance, the last
        assert epps_pulley(other).mean().item() > 10
