"""Convolutions in bf16 on a CPU: gradients beside float64's, what computes in fp32, a planted fault."""

import copy
import logging
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dira_scale import api
from dira_scale.train.models import bf16
from dira_scale.train.models.network import moved

CPU = torch.device("cpu")
SMALL = {
    "volume of 2 slices": (nn.Conv3d(8, 16, 3, padding=1), (2, 8, 8)),
    "5 slices over 3": (nn.Conv3d(8, 16, (5, 3, 3), padding=(2, 1, 1)), (3, 8, 8)),
    "1 pixel, stride 2": (nn.Conv2d(32, 64, 3, 2, 1), (1, 1)),
    "dilated": (nn.Conv3d(8, 16, 3, padding=2, dilation=2), (4, 8, 8)),
    "timm's": (StdConv2d(32, 64, 3, 2, 1), (1, 1)),
    "transposed to 2 voxels": (nn.ConvTranspose3d(64, 32, 3, padding=1), (2, 2, 2)),
}


@pytest.mark.parametrize("case", SMALL)
def test_gradients_are_right_where_memory_holds_nan(case: str) -> None:
    """By bf16's error, with freed memory full of NaN: what is read before it is written shows."""
    torch.manual_seed(0)
    plain, size = SMALL[case]
    layer = moved(copy.deepcopy(plain), CPU, channels_last=True)
    x = torch.randn(16, plain.in_channels, *size)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    dy = torch.randn(y.shape)
    assert y.dtype == torch.bfloat16
    double = copy.deepcopy(plain).double()
    double(x.double()).backward(dy.double())
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        for exponent in range(10, 17):  # floats
            [torch.full((2**exponent,), float("nan")) for _ in range(4)]  # at once, then freed
        layer.zero_grad()
        y.backward(dy.bfloat16())
        for ours, theirs in zip(layer.parameters(), double.parameters(), strict=True):
            error = (ours.grad - theirs.grad).norm() / theirs.grad.norm()  # type: ignore[operator, union-attr]
            assert error < 0.01  # NaN is not


@pytest.mark.parametrize("case", SMALL)
def test_small_inputs_compute_in_fp32(case: str) -> None:
    plain, size = SMALL[case]
    layer = copy.deepcopy(moved(copy.deepcopy(plain), CPU, channels_last=False))  # as sharded kinds copy it
    x = torch.randn(4, plain.in_channels, *size)
    exact = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), exact.bfloat16(), rtol=0, atol=0)
    assert equal(layer(x), exact)


def test_others_compute_in_bf16_as_ever() -> None:
    for plain, size in ((nn.Conv3d(4, 4, 3, padding=1), (3, 4, 4)), (nn.Conv2d(4, 4, 1, 2), (1, 1))):
        layer = moved(copy.deepcopy(plain), CPU, channels_last=False)
        x = torch.randn(2, 4, *size)
        with torch.autocast("cpu", torch.bfloat16):
            assert equal(layer(x), plain(x))


class Doubled(torch.autograd.Function):
    """The fault that is planted: a gradient twice as large."""

    @staticmethod
    def forward(ctx, w: Tensor) -> Tensor:
        return w.view_as(w)

    @staticmethod
    def backward(ctx, dw: Tensor) -> Tensor:
        return 2 * dw


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU whose bf16 gradients of convolutions with dilation are wrong."""
    plain = nn.Conv2d._conv_forward

    def convolve(self: nn.Conv2d, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        wrong = torch.is_autocast_enabled("cpu") and self.dilation == (2, 2)
        return plain(self, x, Doubled.apply(w) if wrong else w, bias)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", convolve)
    monkeypatch.setattr(bf16, "bf16_without_amx", lambda: True)
    bf16._tried.cache_clear()
    yield
    bf16._tried.cache_clear()


def gradient(layer: nn.Conv2d, x: Tensor) -> Tensor:
    layer(x).float().square().sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad


@pytest.mark.usefixtures("faulty")
def test_a_convolution_that_this_cpu_gets_wrong_computes_in_fp32_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    right, wrong = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3, dilation=2)
    x, before = torch.randn(2, 4, 9, 9), torch.get_rng_state()
    exact = [gradient(copy.deepcopy(layer), x) for layer in (right, wrong)]
    with caplog.at_level(logging.WARNING), api.autocast(nn.Sequential(right, wrong), "bf16"):
        first = [gradient(layer, x) for layer in (right, wrong)]
        gradient(copy.deepcopy(wrong), x)
    assert torch.equal(torch.get_rng_state(), before)  # the run's random numbers are as they were
    assert [((a - b).norm() / b.norm() < 0.05).item() for a, b in zip(first, exact, strict=True)] == [True, True]
    (line,) = caplog.messages
    assert "Conv2d (kernel (3, 3), 4 to 8 channels) over (9, 9) are wrong on this CPU" in line and "fp32" in line


@pytest.mark.usefixtures("faulty")
def test_what_is_tried_within_activation_checkpointing_is_not_counted_as_its_own() -> None:
    """Else the second forward pass, which tries nothing again, would find fewer tensors saved."""
    layers = bf16.guard(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, dilation=2)))
    x, gradients = torch.randn(2, 4, 9, 9), []
    for through in (partial(checkpoint, layers, use_reentrant=False), layers):
        layers.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = through(x)
        y.float().square().sum().backward()
        gradients.append([each.grad for each in layers.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.usefixtures("faulty")
def test_nothing_is_tried_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = bf16.guard(nn.Conv2d(4, 8, 3))
    monkeypatch.setattr(bf16, "is_right", None)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(torch.randn(1, 4, 9, 9)).dtype == torch.bfloat16


def equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
