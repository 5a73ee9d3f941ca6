"""The least-squares adversary, against a float64 formula, and what its losses must not touch."""

import copy

import pytest
import torch

from dira_scale.methods.adversary import Adversary


@pytest.fixture
def adversary():
    torch.manual_seed(0)
    return Adversary()


def distance(ours, reference):
    """Of two gradients, relative: float32 against float64."""
    return ((ours.double() - reference).norm() / reference.norm()).item()


def images(seed):
    return torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(seed))


def test_generator_loss_and_gradient(adversary):
    restored = images(0).requires_grad_()
    loss = adversary.generator_loss(restored)
    loss.backward()
    reference = images(0).double().requires_grad_()
    ((copy.deepcopy(adversary.discriminator).double()(reference) - 1) ** 2).mean().backward()
    assert distance(restored.grad, reference.grad) < 1e-4
    assert loss.item() == pytest.approx(
        ((adversary.discriminator.double()(reference) - 1) ** 2).mean().item(), rel=1e-5
    )


def test_discriminator_loss_and_gradient(adversary):
    adversary.discriminator_loss(images(0), images(1)).backward()
    twin = copy.deepcopy(adversary.discriminator).double()
    twin.zero_grad()
    loss = ((twin(images(0).double()) - 1) ** 2).mean() / 2 + (twin(images(1).double()) ** 2).mean() / 2
    loss.backward()
    assert adversary.discriminator_loss(images(0), images(1)).item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, reference in zip(adversary.discriminator.parameters(), twin.parameters(), strict=True):
        # A convolution's bias before InstanceNorm has no effect: its gradient is rounding alone.
        assert distance(ours.grad, reference.grad) < 1e-4 or reference.grad.norm() < 1e-12


def test_undecided_discriminator_loses_a_quarter(adversary):
    with torch.no_grad():
        adversary.discriminator[-1].weight.zero_()
        adversary.discriminator[-1].bias.fill_(0.5)
    assert adversary.discriminator_loss(images(0), images(1)).item() == pytest.approx(0.25)
    assert adversary.generator_loss(images(0)).item() == pytest.approx(0.25)


def test_each_loss_trains_its_own_side_only(adversary):
    restored = images(0).requires_grad_()
    adversary.generator_loss(restored).backward()
    assert restored.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.parameters())
    restored.grad = None
    adversary.discriminator_loss(images(1), restored).backward()
    assert restored.grad is None
    assert all(p.grad is not None for p in adversary.parameters())


def test_stays_in_float32_under_autocast(adversary):
    expected = adversary.generator_loss(images(0)), adversary.discriminator_loss(images(0), images(1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = adversary.generator_loss(images(0)), adversary.discriminator_loss(images(0), images(1))
    assert all(torch.equal(one, other) for one, other in zip(expected, inside, strict=True))
