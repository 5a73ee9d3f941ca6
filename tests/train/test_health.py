"""Monitors against plain formulas, and on features whose figures are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method, Terms
from dira_scale.train.health import Health, alignment, effective_rank, std_ratio, uniformity


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)


def unit(x: torch.Tensor) -> np.ndarray:
    plain = x.double().numpy()
    return plain / np.linalg.norm(plain, axis=1, keepdims=True)


@pytest.mark.parametrize("transposed", [False, True])
def test_monitors_are_their_formulas(x: torch.Tensor, transposed: bool) -> None:
    x = x.T.contiguous() if transposed else x
    z, other = unit(x), unit(x.flip(0) + 1)
    assert float(std_ratio(x)) == pytest.approx(z.std(axis=0, ddof=1).mean() * math.sqrt(x.shape[1]), rel=1e-5)
    shares = np.linalg.svd(x.double().numpy(), compute_uv=False)
    shares /= shares.sum()
    assert float(effective_rank(x)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)
    assert float(alignment(x, x.flip(0) + 1)) == pytest.approx(((z - other) ** 2).sum(axis=1).mean(), rel=1e-5)
    pairs = [np.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i in range(len(z)) for j in range(i)]
    assert float(uniformity(x)) == pytest.approx(np.log(np.mean(pairs)), rel=1e-4)


def test_collapse_spread_and_rank_look_as_they_should() -> None:
    alike = torch.randn(1, 64).expand(256, 64) + 1e-6 * torch.randn(256, 64)
    even = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    line = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(1, 64)
    assert float(std_ratio(alike)) < 1e-3 and float(effective_rank(alike)) == pytest.approx(1.0, abs=1e-2)
    assert float(uniformity(alike)) == pytest.approx(0.0, abs=1e-3)
    assert float(std_ratio(even)) == pytest.approx(1.0, abs=0.02) and float(effective_rank(even)) > 63
    assert float(effective_rank(line)) == pytest.approx(1.0, abs=1e-4)  # not collapsed in std, but in rank
    assert float(effective_rank(torch.full((4, 4), math.nan))) == pytest.approx(1.0, abs=1.0)  # nothing is raised


class Linear(Method):
    """Losses that are linear in the encoder's output: their gradients are known."""

    def __init__(self) -> None:
        super().__init__(None, {"di": 3.0, "re": 0.5, "un": 1.0})  # type: ignore[arg-type]
        self.encoder = nn.Conv2d(1, 4, 1)

    def forward(self, clean, distorted, batch):
        first, second = self.encoder(clean), self.encoder(distorted)
        losses = {"di": (2 * first).sum() + second.sum(), "re": first.mean(), "un": torch.tensor(1.0)}
        return Terms(losses, pyramids=([clean, first], [distorted, second]), embeddings=(first.detach().flatten(1),))


def test_the_pull_of_a_term_is_its_weighted_gradient_at_the_encoders_output() -> None:
    torch.manual_seed(0)
    method = Linear()
    health = Health(method, Adversary("lsgan"), every=10)
    images = torch.rand(5, 1, 2, 2)
    assert health.due(20, last=True)
    terms = method(images, images, None)
    assert terms.pyramids == ()  # nothing holds them until the next step
    losses = {"loss": torch.stack(list(terms.losses.values())).sum()}
    losses |= {f"loss/{name}": value for name, value in terms.losses.items()}
    values = health.measure(terms, losses)
    n = 5 * 4 * 2 * 2  # numbers in a view's output
    assert float(values["health/gradient/di"]) == pytest.approx(3 * math.sqrt(n * 4 + n))
    assert float(values["health/gradient/re"]) == pytest.approx(0.5 / math.sqrt(n))
    assert float(values["health/gradient/un"]) == 0.0
    assert not any(value.requires_grad for value in values.values())
    losses["loss"].backward()  # the graph is still there
    assert method.encoder.weight.grad is not None


def test_looks_come_as_often_as_asked_and_evaluation_keeps_its_pyramids() -> None:
    health = Health(method := Linear(), Adversary("lsgan"), every=3)
    assert [step for step in range(8) if health.due(step, last=True)] == [0, 3, 6]
    assert not health.due(3, last=False)
    images = torch.rand(2, 1, 2, 2)
    method(images, images, None)
    assert health._features == ()  # a step that is not measured keeps nothing
    assert method.eval()(images, images, None).pyramids != ()


@pytest.mark.parametrize(("loss", "between"), [("lsgan", 0.5), ("minimax", 0.0)])
def test_the_discriminator_is_right_where_scores_lie_on_their_side(loss: str, between: float) -> None:
    adversary = Adversary(loss)
    adversary.discriminator = nn.Identity()
    real, fake = torch.tensor([0.1, 0.2, -0.1, 0.3]) + between, torch.tensor([-0.1, 0.2]) + between
    assert float(adversary.accuracy(real, fake)) == pytest.approx((3 / 4 + 1 / 2) / 2)
