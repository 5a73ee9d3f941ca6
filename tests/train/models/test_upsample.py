"""A doubled map beside a finer one, written once, is torch's interpolation and concatenation."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import grad, gradgradcheck

from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.train.models.upsample import doubled_beside, nearest, nearest_beside

LAYOUTS = {"contiguous": (2, torch.contiguous_format), "channels last": (2, torch.channels_last)}
LAYOUTS |= {"volumes": (3, torch.contiguous_format), "volumes, channels last": (3, torch.channels_last_3d)}


def maps(layout: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    dimensions, form = LAYOUTS[layout]
    generator, half = torch.Generator().manual_seed(0), (3, 4, 5)[:dimensions]
    shapes = (2, 3, *half), (2, 5, *(2 * side for side in half))
    made = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    x, skip = (each.contiguous(memory_format=form).requires_grad_() for each in made)
    return x, skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_doubled_map_is_torchs(layout: str, dtype: torch.dtype) -> None:
    """Bit for bit, in its layout; gradients in float64 but for the order of four addends. It can be differentiated
    twice."""
    x, skip = maps(layout, dtype)
    expected, actual = torch.cat([nearest(x, skip.shape[2:]), skip], dim=1), doubled_beside(x, skip)
    assert torch.equal(actual, expected) and actual.stride() == expected.stride()
    assert torch.equal(nearest_beside(x, skip), expected)
    if dtype == torch.float64:
        weights = torch.randn_like(expected)
        for ours, torchs in zip(
            *(grad(y, (x, skip), weights, retain_graph=True) for y in (actual, expected)), strict=True
        ):
            torch.testing.assert_close(ours, torchs, rtol=1e-15, atol=1e-15)
        assert grad(actual.sum(), x)[0].is_contiguous(memory_format=LAYOUTS[layout][1])
        assert gradgradcheck(lambda *given: doubled_beside(*given).square(), (x, skip), fast_mode=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gpu_writes_it_once(layout: str) -> None:
    """By tensors without memory: each given map is read once, the result written once; torch's two operations write and
    read the doubled map besides. Maps that are not doubled, or of another type, are torch's."""
    given = maps(layout, torch.float32)
    with FakeTensorMode() as mode:
        x, skip = (mode.from_tensor(each) for each in given)
        with Ledger([]) as ledger, torch.no_grad():
            y = nearest_beside(x, skip)
            once = ledger.work.moved
            torch.cat([nearest(x, skip.shape[2:]), skip], dim=1)
            twice = ledger.work.moved - once
            larger = nearest_beside(x[:, :, 1:], skip)
    assert once == 4 * (x.numel() + skip.numel() + y.numel())
    assert twice - once == 2 * 4 * x.numel() * 2 ** (x.dim() - 2)
    assert larger.shape == y.shape
    assert nearest_beside(given[0].bfloat16(), given[1]).dtype == torch.float32
