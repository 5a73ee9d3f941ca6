"""Stochastic depth against its formula, with all branches computed; and cut into parts of the batch."""

from functools import partial

import pytest
import timm
import torch
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import nn

from dira_scale.train.engine.parallel.recompute import checkpoint_activations
from dira_scale.train.models.drop_path import GROUP, DropPath, GroupedDropPath, drop_by_position, part_of_batch

ROWS, RATE = 4 * GROUP, 0.3  # 11 of 16 rows are kept
KINDS = {
    "vit": partial(Block, 8, 2, init_values=0.5, drop_path=RATE),
    "vit without scale": partial(Block, 8, 2, drop_path=RATE),
    "eva": partial(EvaBlock, 8, 2, init_values=0.5, drop_path=RATE),
}


def block(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(KINDS[kind](), nn.Identity()).double().train()
    drop_by_position(made)
    return made


def rows(seed: int = 1) -> torch.Tensor:
    return torch.randn(ROWS, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def trained(module: nn.Module, x: torch.Tensor, parts: int = 1) -> list[torch.Tensor]:
    """Result, and the gradients of ``x`` and of the parameters."""
    module.zero_grad()
    results = []
    for part, own in enumerate(x.detach().chunk(parts)):
        torch.manual_seed(3)
        with part_of_batch(part, parts):
            own.requires_grad_()
            y = module(own)
            (y * rows(2).detach().chunk(parts)[part]).sum().backward()
        results.append((y.detach(), own.grad))
    y, dx = map(torch.cat, zip(*results, strict=True))
    return [y, dx, *(parameter.grad.clone() for parameter in module.parameters())]


class Masked(nn.Module):
    """In the place of drop path: 0 in those rows that are not among ``kept``, 11 of each group."""

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self.kept = kept

    def note(self, _: nn.Module, given: tuple[torch.Tensor]) -> None:
        """What comes into the branch, all rows."""
        near = (given[0][:, None] - self.kept).abs().flatten(2).amax(2) < 1e-12
        self.factors = near.any(1).double()[:, None, None] / (11 / GROUP)
        assert (near.any(1).view(-1, GROUP).sum(1) == 11).all()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factors


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_the_formula_of_the_rows_that_it_keeps(kind: str) -> None:
    """timm's own block computes all rows. Which are kept is seen in what comes into each branch."""
    module, x, kept = block(kind), rows(), list[torch.Tensor]()
    plain = KINDS[kind]().double().eval()
    plain.load_state_dict(module[0].state_dict())
    assert torch.equal(module.eval()(x), plain(x))
    norms = module[0].norm1, module[0].norm2
    hooks = [norm.register_forward_pre_hook(lambda _, given: kept.append(given[0])) for norm in norms]
    found = trained(module.train(), x)
    for hook in hooks:
        hook.remove()
    assert len(kept[0]) == len(kept[1]) == ROWS * 11 // GROUP  # no others are computed
    plain.drop_path1, plain.drop_path2 = map(Masked, kept)
    plain.norm1.register_forward_pre_hook(plain.drop_path1.note)
    plain.norm2.register_forward_pre_hook(plain.drop_path2.note)
    for ours, expected in zip(found, trained(plain, x), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [*KINDS, "convnext"])
def test_parts_of_the_batch_drop_what_the_whole_drops(kind: str) -> None:
    """Groups that are cut too: of 32 parts each has 2 of 16 rows."""
    x = rows()
    if kind == "convnext":
        torch.manual_seed(0)
        module = timm.create_model("test_convnext", drop_path_rate=0.8, num_classes=4, in_chans=3).double().train()
        drop_by_position(module)
        assert {type(m) for m in module.modules() if "DropPath" in type(m).__name__} == {DropPath}
        module = nn.Sequential(
            nn.Unflatten(2, (2, 4)), nn.Upsample(32), module, nn.Unflatten(1, (1, 4)), nn.Upsample(8)
        )
    else:
        module = block(kind)
    whole = trained(module, x)
    for parts in (2, 4, 8, 32):
        for found, expected in zip(trained(module, x, parts), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_rows_are_dropped_as_often_as_the_rate_says_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    single, ones = DropPath(0.2).train(), torch.ones(20000, 1)
    y = single(ones)
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.01) and y.max().item() == pytest.approx(1.25)
    grouped = GroupedDropPath(RATE).train()
    count = torch.zeros(GROUP)
    for _ in range(2000):
        y = grouped.around(torch.zeros(GROUP, 1, 1), nn.Identity(), torch.ones_like, None).flatten()
        assert (y == 0).sum() == 5 and y.max().item() == pytest.approx(16 / 11)
        count += y
    torch.testing.assert_close(count / 2000, torch.ones(GROUP), rtol=0, atol=0.06)  # 4 standard errors
    given = torch.zeros(6, 1, 1), nn.Identity(), torch.ones_like, None
    odd = torch.stack([grouped.around(*given).flatten() for _ in range(3000)])
    assert (odd == 0).float().mean().item() == pytest.approx(RATE, abs=0.015)  # no whole groups: each by itself


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_and_compiled_blocks_drop_the_same(kind: str) -> None:
    expected, x = trained(block(kind), rows()), rows()
    again = block(kind)
    checkpoint_activations(again)
    compiled, graphs = block(kind), []
    compiled[0].compile(backend=lambda graph, _: graphs.append(graph) or graph.forward, dynamic=False)
    for module in (again, compiled):
        for found, value in zip(trained(module, x), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
    trained(compiled, x, 2)
    once = len(graphs)
    trained(compiled, x, 2)
    assert len(graphs) == once and once <= 6  # no more for the second of two micro-batches than for the first
