"""Convolutions over inputs smaller than their kernel: their gradients beside float64's, what computes in fp32."""

import copy

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from dira_scale.models.network import moved

CPU = torch.device("cpu")
SMALL = {
    "volume of 2 slices": (nn.Conv3d(8, 16, 3, padding=1), (2, 8, 8)),
    "5 slices over 3": (nn.Conv3d(8, 16, (5, 3, 3), padding=(2, 1, 1)), (3, 8, 8)),
    "1 pixel, stride 2": (nn.Conv2d(32, 64, 3, 2, 1), (1, 1)),
    "dilated": (nn.Conv3d(8, 16, 3, padding=2, dilation=2), (4, 8, 8)),
    "timm's": (StdConv2d(32, 64, 3, 2, 1), (1, 1)),
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


def test_a_module_that_moves_twice_stays_what_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1))
    names = list(network.state_dict())
    moved(network, CPU, channels_last=False)
    kinds = [type(layer) for layer in network]
    moved(network, CPU, channels_last=True)
    assert kinds == [type(layer) for layer in network] and issubclass(kinds[0], nn.Conv2d)
    assert kinds[1:] == [nn.ReLU, nn.Conv2d]
    assert list(network.state_dict()) == names


def equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
