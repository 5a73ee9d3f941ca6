"""Both adversaries, against float64 formulas, and what their losses must not touch."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from train.runs.writers import Kept

from dira_scale.base.arguments import ArgumentError
from dira_scale.pretrain.config import AdversaryConfig
from dira_scale.train.engine.optim import load_by_name, state_by_name
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.models import discriminator, norm_act
from dira_scale.train.models.discriminator import Discriminator, check_size
from dira_scale.train.models.network import CONVOLUTIONS

BOTH = pytest.mark.parametrize("adversary", ["lsgan", "minimax"], indirect=True)


@pytest.fixture
def adversary(request):
    torch.manual_seed(0)
    return Adversary(getattr(request, "param", "lsgan"))


def generator_formula(adversary, restored):
    scores = copy.deepcopy(adversary.discriminator).double()(restored)
    if adversary.loss == "lsgan":
        return ((scores - 1) ** 2).mean()
    return torch.log(1 - 1 / (1 + torch.exp(-scores))).mean()  # equation 3's second half


def discriminator_formula(adversary, twin, real, fake):
    if adversary.loss == "lsgan":
        return ((twin(real) - 1) ** 2).mean() / 2 + (twin(fake) ** 2).mean() / 2
    d_real, d_fake = (1 / (1 + torch.exp(-twin(images))) for images in (real, fake))
    return -(torch.log(d_real).mean() + torch.log(1 - d_fake).mean())


def distance(ours, reference):
    """The relative distance of two gradients: float32 against float64."""
    return ((ours.double() - reference).norm() / reference.norm()).item()


def images(seed):
    return torch.rand(3, 1, 48, 48, generator=torch.Generator().manual_seed(seed))


def test_images_of_one_patch_are_refused():
    for size, larger in (((8, 8), "16"), ((8, 8, 8), r"\[16, 16, 16\]")):
        with pytest.raises(ArgumentError, match=f"^size: expected {larger} or larger, or stages without the term ad: "):
            check_size(size)
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            Discriminator(len(size))(torch.rand(2, 1, *size))


@BOTH
def test_generator_loss_and_gradient(adversary):
    restored = images(0).requires_grad_()
    loss = adversary.generator_loss(restored)
    loss.backward()
    reference = images(0).double().requires_grad_()
    expected = generator_formula(adversary, reference)
    expected.backward()
    assert distance(restored.grad, reference.grad) < 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@BOTH
def test_discriminator_loss_and_gradient(adversary):
    passes = []
    adversary.discriminator.register_forward_hook(lambda *_: passes.append(1))
    loss = adversary.discriminator_loss(images(0), images(1))
    loss.backward()
    assert len(passes) == 1  # clean and restored images together
    twin = copy.deepcopy(adversary.discriminator).double()
    twin.zero_grad()
    expected = discriminator_formula(adversary, twin, images(0).double(), images(1).double())
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, reference in zip(adversary.discriminator.parameters(), twin.parameters(), strict=True):
        # A convolution's bias before InstanceNorm has no effect: its gradient is 0.
        assert distance(ours.grad, reference.grad) < 1e-4 or reference.grad.norm() < 1e-12


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_biases_before_norms_change_no_score_and_are_kept_as_they_are(monkeypatch, dimensions, fused):
    """Against torch's layers with all biases; also as a GPU runs it, by formulas. Optimizer states fit either."""
    for module in (norm_act, discriminator):
        monkeypatch.setattr(module, "fuses", lambda *_: fused)
    ours, norm = Discriminator(dimensions).double(), {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions]
    first, *others, score = (copy.deepcopy(each) for each in ours if isinstance(each, CONVOLUTIONS[dimensions]))
    for layer in (first, *others):
        layer.__class__ = CONVOLUTIONS[dimensions]
    blocks = [part for layer in others for part in (layer, norm(layer.out_channels), nn.LeakyReLU(0.2))]
    plain = nn.Sequential(first, nn.LeakyReLU(0.2), *blocks, score)
    for value in ours.parameters():
        nn.init.normal_(value, std=0.1)
    plain.load_state_dict(ours.state_dict())
    before, ends, states = copy.deepcopy(ours.state_dict()), [], []
    x = torch.rand(2, 1, *[24] * dimensions, dtype=torch.float64)
    for network in (ours, plain):
        image, optimizer = x.clone().requires_grad_(), torch.optim.Adam(network.parameters(), 0.1)
        scores = network(image)
        scores.square().sum().backward()
        ends.append((scores, image.grad, *(p.grad for p in network.parameters())))
        optimizer.step()
        states.append(state_by_name(optimizer, network, "d"))
    for a, b in zip(*ends, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-9)
    moved = {name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])}
    assert before.keys() - moved == {"2.bias", "5.bias", "8.bias"} and states[0].keys() == states[1].keys()
    resumed = torch.optim.Adam(ours.parameters())
    load_by_name(resumed, ours, "d", Kept(states[1]))
    assert state_by_name(resumed, ours, "d").keys() == states[0].keys()


@BOTH
def test_scores_far_from_undecided_stay_finite(adversary):
    """log(1 - D) of a D that is 1 to the last bit; the gradient is still there."""
    with torch.no_grad():
        adversary.discriminator[-1].bias.fill_(200.0)
    restored = images(0).requires_grad_()
    losses = adversary.generator_loss(restored), adversary.discriminator_loss(images(1), images(0))
    assert all(loss.isfinite() for loss in losses)
    losses[0].backward()
    assert restored.grad.abs().sum() > 0


def test_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(ArgumentError, match=r"^loss: expected lsgan or minimax; did you mean 'lsgan'\?, got 'lsgn'$"):
        Adversary("lsgn")


@BOTH
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
    assert all(torch.equal(outside, under) for outside, under in zip(expected, inside, strict=True))


@BOTH
def test_bf16_is_near_float32_with_losses_in_float32(adversary):
    near = Adversary(adversary.loss, precision="bf16")
    near.load_state_dict(adversary.state_dict())
    products = []
    near.discriminator[0].register_forward_hook(lambda _, inputs, output: products.append(output.dtype))
    for name, given in (("generator_loss", [images(0)]), ("discriminator_loss", [images(0), images(1)])):
        ours, exact = (getattr(each, name)(*given) for each in (near, adversary))
        assert ours.dtype == torch.float32 and ours.item() == pytest.approx(exact.item(), rel=0.01)
    assert set(products) == {torch.bfloat16}


def test_bf16_is_refused_for_a_penalty():
    with pytest.raises(ArgumentError, match=r"^precision: expected fp32: loss wgan_gp differentiates"):
        AdversaryConfig("wgan_gp", 100.0, "bf16")
