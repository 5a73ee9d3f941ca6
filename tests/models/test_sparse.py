"""Sparse encoders: what their hidden positions hold changes nothing, and with none hidden they are the plain ones."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers import EvoNorm2dS0, GroupNormAct
from torch import Tensor, nn

from dira_scale.errors import UserError
from dira_scale.models.encoder import build_encoder
from dira_scale.models.sparse import sparsify

SIZE, BLOCKS = (64, 64), (2, 2)


def test_a_blur_does_not_spread_what_is_hidden() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("resnetblur18", 3, 64).eval()
    hidden = sparsify(encoder, SIZE, BLOCKS)
    hidden.blocks = torch.tensor([[[True, False], [False, True]]])
    x = torch.randn(1, 1, *SIZE)
    before = encoder(x)

    def anything(layer: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return torch.where(hidden.at(y), torch.randn_like(y), y)

    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(anything)
    after = encoder(x)
    assert before[-1].any() and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, partial(nn.GroupNorm, 8), partial(GroupNormAct, num_groups=8)])
def test_with_nothing_hidden_it_is_the_plain_encoder(norm: Callable[[int], nn.Module]) -> None:
    """A ``GroupNormAct`` has an activation in it."""
    torch.manual_seed(0)
    plain = build_encoder("test_resnet", 3, 64)
    for parent in list(plain.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, norm(child.num_features))
    encoder = copy.deepcopy(plain.eval())
    hidden = sparsify(encoder, SIZE, BLOCKS)
    hidden.blocks = torch.zeros(1, *BLOCKS, dtype=torch.bool)
    x = torch.randn(1, 1, *SIZE)
    for ours, expected in zip(encoder(x), plain(x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_norm_over_all_positions_is_refused() -> None:
    encoder = build_encoder("test_resnet", 3, 64)
    encoder.norm = EvoNorm2dS0(8)
    with pytest.raises(UserError, match=r"mixes all positions \(EvoNorm2dS0\)"):
        sparsify(encoder, SIZE, BLOCKS)
