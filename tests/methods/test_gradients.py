"""Gradients of the whole DiRA objective by finite differences in float64."""

from types import SimpleNamespace

import pytest
import torch
from methods.tiny import dira
from torch import nn

from dira_scale.methods import byol, simsiam
from dira_scale.methods.adversary import Adversary
from dira_scale.models import norm

STEP = 2e-8


def smooth(module):
    """Without the kinks of ReLU and max-pooling, of which a finite step always crosses some."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.LeakyReLU):
                setattr(parent, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return module


def opponent(loss="lsgan"):
    """With a narrow discriminator: the true one, whose own test has its gradients, would take most of the time."""
    torch.manual_seed(1)
    adversary = Adversary(loss)
    adversary.discriminator = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, 2, 1))
    return adversary.double()


def images(count=4):
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.rand(count, 1, 64, 64, generator=generator, dtype=torch.float64)  # noqa: E731
    return (draw(), draw()), (draw(), draw())


def objective(method, adversary, pairs):
    """di + 10 re + 0.001 ad."""
    vars(method.base).get("_waiting", []).clear()  # MoCo shuffles every micro-batch of a step in another way
    terms = method(*pairs, SimpleNamespace(step=0))
    losses = terms.losses | {"ad": adversary.generator_loss(terms.restored)}
    return sum(method.weights[name] * loss for name, loss in losses.items())


@pytest.fixture
def targets_held(monkeypatch):
    """What a stop-gradient guards is a constant of the loss: calls after the first round see the first round's."""
    held, calls = [], []

    def negative_cosine(prediction, target):
        if len(held) < 2:
            held.append(target.detach().clone())
        calls.append(None)
        return original(prediction, held[(len(calls) - 1) % 2])

    original = simsiam.negative_cosine
    monkeypatch.setattr(simsiam, "negative_cosine", negative_cosine)
    monkeypatch.setattr(byol, "negative_cosine", negative_cosine)


@pytest.mark.usefixtures("targets_held")
@pytest.mark.parametrize(
    ("base", "restoration", "restore", "loss"),
    [
        ("moco", "mse", "first", "lsgan"),
        ("simsiam", "mse", "both", "minimax"),
        ("barlow", "l1", "first", "lsgan"),
        ("byol", "mse", "first", "minimax"),
    ],
)
def test_gradients_of_the_objective_are_its_slopes(base, restoration, restore, loss):
    method = dira(base, restoration=restoration, restore=restore, weights={"di": 1.0, "re": 10.0, "ad": 0.5})
    method = smooth(norm.convert(method, 2).double())
    adversary, pairs = smooth(opponent(loss)), images()
    objective(method, adversary, pairs).backward()
    parts = {
        "encoder": method.encoder,
        "decoder": method.decoder,
        "head": method.head,
        "projector": method.base.projector,
    } | {name: part for name, part in method.base.named_children() if name == "predictor"}
    for name, part in parts.items():
        parameters = list(part.parameters())
        directions = [torch.randn_like(p) for p in parameters]
        slope = sum((p.grad * d).sum().item() for p, d in zip(parameters, directions, strict=True))
        ends = []
        with torch.no_grad():
            for steps in (STEP, -2 * STEP):  # to one side, then to the other
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter += steps * direction
                ends.append(objective(method, adversary, pairs).item())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += STEP * direction
        assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(slope, rel=1e-5), name
