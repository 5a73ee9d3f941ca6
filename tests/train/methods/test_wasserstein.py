"""The conditional Wasserstein adversary, and least squares on volumes, in float64 beside plain formulas."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.utils._python_dispatch import TorchDispatchMode
from train.methods.masked import RESENC, UNET, UNET3D

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.losses import adversarial
from dira_scale.train.methods.adversary import Adversary, Wasserstein, adversary_of
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.classifier import CoarsestMap

SIZE, COUNT, PENALTY = (8, 8, 16), 4, 7.0
MODELS: dict[str, Any] = {
    "batch": UNET3D, "instance": UNET3D | {"norm": "instance"}, "group": UNET3D | {"norm": "group", "width": 0.25},
    "leaky": RESENC, "image": UNET | {"encoder": "test_resnet"},
}  # fmt: skip


def wasserstein(loss: str = "wgan_gp", model: str = "batch", groups: int = 1) -> Wasserstein:
    torch.manual_seed(0)
    adversary = adversary_of(loss, PENALTY, architecture(MODELS[model]), 32 if model == "image" else SIZE).double()
    assert isinstance(adversary, Wasserstein)
    norm.regroup(adversary, groups)
    return adversary


def volumes() -> tuple[Tensor, ...]:
    """Clean, restored and distorted, and u."""
    generator = torch.Generator().manual_seed(1)
    three = torch.rand(3, COUNT, 1, *SIZE, generator=generator, dtype=torch.float64)
    return *three, torch.rand(COUNT, generator=generator, dtype=torch.float64)


def plain_critic(adversary: Wasserstein) -> tuple[nn.Module, dict[str, Tensor]]:
    """With torch's own BatchNorm, and its weights."""
    encoder = architecture(UNET3D).build_encoder(SIZE, channels=2)
    critic = nn.Sequential(encoder, CoarsestMap(), nn.Conv3d(encoder.channels[-1], 1, 1)).double()
    critic.load_state_dict(adversary.discriminator.state_dict())
    for layer in critic.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    return critic, {name: p.detach().clone() for name, p in critic.named_parameters()}


def plain_loss(critic: nn.Module, weights: dict[str, Tensor], parts: tuple[Tensor, ...], itself: bool) -> Tensor:
    """-E D(real, y) + E D(fake, y) + 7 E (|gradient| - 1)^2, sample by sample."""
    real, fake, given, u = parts
    score = lambda pair: functional_call(critic, weights, (pair,))  # noqa: E731
    between = torch.stack([u[i] * real[i] + (1 - u[i]) * fake[i] for i in range(COUNT)])
    slopes = grad(lambda pair: score(pair).sum())(torch.cat([between, between if itself else given], 1))
    penalty = sum((slope.square().sum().sqrt() - 1) ** 2 for slope in slopes) / COUNT
    real_scores, fake_scores = (score(torch.cat([x, given], 1)) for x in (real, fake))
    return fake_scores.mean() - real_scores.mean() + PENALTY * penalty


@pytest.mark.parametrize("loss", ["wgan_gp", "wgan_gp_released"])
def test_losses_and_gradients_equal_the_formulas(loss: str) -> None:
    adversary, parts = wasserstein(loss), volumes()
    critic, weights = plain_critic(adversary)
    ours = adversary.discriminator_loss(*parts)
    ours.backward()
    itself = loss == "wgan_gp_released"
    theirs = grad(lambda weights: plain_loss(critic, weights, parts, itself))(weights)
    assert ours.item() == pytest.approx(plain_loss(critic, weights, parts, itself).item(), rel=1e-9)
    for name, parameter in adversary.discriminator.named_parameters():
        # Biases before BatchNorm have no effect.
        torch.testing.assert_close(parameter.grad, theirs[name], rtol=1e-6, atol=1e-8, msg=f"{name}: ".__add__)

    restored = parts[1].clone().requires_grad_()
    generator = adversary.generator_loss(restored, *parts[2:])
    generator.backward()
    plain = lambda x: -functional_call(critic, weights, (torch.cat([x, parts[2]], 1),)).mean()  # noqa: E731
    assert generator.item() == pytest.approx(plain(parts[1]).item(), rel=1e-9)
    torch.testing.assert_close(restored.grad, grad(plain)(parts[1]), rtol=1e-6, atol=1e-12)


class Filters(TorchDispatchMode):
    """Notes the longest side of each convolution's filter."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.sides.append(max(args[1].shape[2:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS)
def test_the_penalty_has_autograds_gradient_without_filters_as_large_as_the_maps(model: str) -> None:
    """Over the whole of torch's own double backward, BatchNorm in two groups; in 2D and 3D, of strides 1 and 2."""
    adversary, shape = wasserstein(model=model, groups=2), (16, 16) if model == "image" else SIZE
    weights = list(adversary.parameters())
    pair = torch.rand(COUNT, 2, *shape, dtype=torch.float64, requires_grad=True)
    with Filters() as ours:
        penalty = adversarial.gradient_penalty(adversary._scores, pair)
        gradients = torch.autograd.grad(penalty, weights, materialize_grads=True)
    with Filters() as torchs:
        (slope,) = torch.autograd.grad(adversary._scores(pair).sum(), pair, create_graph=True)
        expected = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        references = torch.autograd.grad(expected, weights, materialize_grads=True)
    assert torch.equal(penalty, expected)
    torch.testing.assert_close(gradients, references, rtol=1e-10, atol=1e-12)
    kernels = {max(weight.shape[2:]) for weight in weights if weight.dim() > 2}
    assert set(ours.sides) <= kernels and not set(torchs.sides) <= kernels


def test_a_batch_norm_group_sees_no_other_and_keeps_no_statistics() -> None:
    """The adversary is never evaluated: a step is its batches' statistics alone."""
    whole, half, parts = wasserstein(groups=2), wasserstein(), volumes()
    halves = [half.discriminator_loss(*(part[rows] for part in parts)) for rows in (slice(0, 2), slice(2, 4))]
    assert whole.discriminator_loss(*parts).item() == pytest.approx(sum(loss.item() for loss in halves) / 2, rel=1e-9)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    norm.commit_statistics(whole)
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())


def test_where_between_is_depends_on_sample_and_step_alone() -> None:
    """However samples come together: in any batch, on any process; each view has a number of its own."""
    adversary, index = wasserstein(), torch.arange(4000) * 7
    batch = lambda index, step=3: SimpleNamespace(index=index, step=step)  # noqa: E731
    drawn = lambda index, step=3, views=1: adversary.beside(  # noqa: E731
        torch.empty(views * len(index), 1), tuple(torch.full((len(index), 1), float(v)) for v in range(2)),
        batch(index, step)  # type: ignore[arg-type]
    )  # fmt: skip
    given, u = drawn(index, views=2)
    assert torch.equal(given, torch.cat([torch.zeros(4000, 1), torch.ones(4000, 1)])) and u.shape == (8000,)
    assert torch.equal(torch.cat([drawn(part)[1] for part in index.chunk(4)]), u[:4000])
    assert not torch.equal(drawn(index, step=4)[1], u[:4000])
    counts = torch.histc(u, 10, 0, 1)
    assert u.min() >= 0 and u.max() < 1 and ((counts - 800) ** 2 / 800).sum() < 33  # chi-squared, 9 degrees: p = 1e-4
    assert abs(torch.corrcoef(u.view(2, -1))[0, 1]) < 4 / math.sqrt(4000)


def test_each_side_learns_alone_and_in_float32() -> None:
    adversary, (real, fake, given, u) = wasserstein().float(), tuple(part.float() for part in volumes())
    restored = fake.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        losses = adversary.generator_loss(restored, given, u), adversary.discriminator_loss(real, restored, given, u)
    exact = adversary.generator_loss(fake, given, u), adversary.discriminator_loss(real, fake, given, u)
    assert [loss.item() for loss in losses] == [loss.item() for loss in exact]
    losses[0].backward()
    assert restored.grad.abs().sum() > 0 and all(p.grad is None for p in adversary.parameters())
    restored.grad = None
    losses[1].backward()
    assert restored.grad is None and all(p.grad is not None for p in adversary.parameters())


def test_accuracy_compares_pairs_of_patches() -> None:
    adversary, (real, fake, given, u) = wasserstein(), volumes()
    scores = [adversary._scores(torch.cat([x, given], 1)) for x in (real, fake)]
    right = sum(a > b for a, b in zip(*(x.flatten().tolist() for x in scores), strict=True)) / scores[0].numel()
    assert adversary.accuracy(real, fake, given, u).item() == pytest.approx(right)
    assert adversary.accuracy(real, real, given, u) == 0


def test_least_squares_on_volumes_is_of_four_blocks_of_three_voxels() -> None:
    """Widths 64 to 512, strides 2, 2, 2, 1, InstanceNorm but in the first, LeakyReLU of 0.2, a scoring convolution."""
    torch.manual_seed(0)
    adversary = adversary_of("lsgan", PENALTY, architecture(UNET3D), (16, 16, 16)).double()
    assert type(adversary) is Adversary
    weights = [p for p in adversary.parameters() if p.dim() > 1]
    biases = [p for p in adversary.parameters() if p.dim() == 1]
    assert [tuple(w.shape) for w in weights] == [
        (b, a, 3, 3, 3) for a, b in ((1, 64), (64, 128), (128, 256), (256, 512), (512, 1))
    ]

    def scores(x: Tensor) -> Tensor:
        for block, (weight, bias) in enumerate(zip(weights[:4], biases[:4], strict=True)):
            x = F.conv3d(x, weight, bias, stride=2 if block < 3 else 1, padding=1)
            if block:
                mean, deviation = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), keepdim=True, unbiased=False)
                x = (x - mean) / (deviation + 1e-5).sqrt()
            x = torch.where(x > 0, x, 0.2 * x)
        return F.conv3d(x, weights[4], biases[4], padding=1)

    real, fake = torch.rand(2, 2, 1, 16, 16, 16, dtype=torch.float64)
    expected = ((scores(real) - 1) ** 2).mean() / 2 + (scores(fake) ** 2).mean() / 2
    torch.testing.assert_close(adversary.discriminator_loss(real, fake), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(adversary.generator_loss(fake), ((scores(fake) - 1) ** 2).mean(), rtol=1e-9, atol=0)
    assert adversary.beside(fake, (fake,), None) == ()  # type: ignore[arg-type]


def test_images_have_it_too_and_other_names_are_refused() -> None:
    for encoder in ("test_resnet", "test_vit"):  # the second has attention, whose fused form differentiates once
        adversary = adversary_of("wgan_gp", PENALTY, architecture(UNET | {"encoder": encoder}), 64)
        loss = adversary.discriminator_loss(*torch.rand(3, 2, 1, 64, 64), torch.rand(2))
        loss.backward()
        assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in adversary.parameters())
    with pytest.raises(ArgumentError, match=r"^loss: expected lsgan or minimax"):
        adversary_of("wgan", PENALTY, architecture(UNET), 64)
