"""BatchNorm groups on one process, against torch's own; several processes: tests/train/methods/test_processes.py."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dira_scale.base.arguments import ArgumentError
from dira_scale.fleet.forecast.network import one_rank_of
from dira_scale.train.models import grouped_norm, norm, norm_over_ranks
from dira_scale.train.models.grouped_norm import Recomputing


def pair(channels=3, dims=2, **kwargs):
    """One layer twice: torch's, and ours over one group."""
    torch.manual_seed(0)
    kind = nn.BatchNorm2d if dims == 2 else nn.BatchNorm1d
    plain, ours = kind(channels).double(), kind(channels).double()
    for layer in (plain, ours):
        nn.init.constant_(layer.weight, 0.7)
        nn.init.constant_(layer.bias, -0.2)
    return plain, norm.convert(ours, **{"groups": 1, **kwargs})


def images(count=8, dims=2):
    torch.manual_seed(1)
    return (torch.randn(count, 3, *([5, 4] if dims == 2 else []), dtype=torch.float64) * 2 + 1).requires_grad_()


def gradients(layer, x):
    """Output and gradients of a loss in which every element counts differently."""
    x = x.detach().requires_grad_()
    y = layer(x)
    layer.zero_grad()
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    return y.detach(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("dims", [1, 2])
def test_one_group_is_torchs_batch_norm(dims):
    plain, ours = pair(dims=dims)
    for _ in range(3):
        for theirs, mine in zip(gradients(plain, images(dims=dims)), gradients(ours, images(dims=dims)), strict=True):
            assert torch.equal(theirs, mine)
        norm.commit_statistics(ours)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-14, atol=0)
    torch.testing.assert_close(ours.eval()(images(dims=dims)), plain.eval()(images(dims=dims)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_are_batch_norms_of_contiguous_parts(groups):
    plain, ours = pair(groups=groups)
    x = images()
    y, grad, weight, bias = gradients(ours, x)
    norm.commit_statistics(ours)
    means, variances = [], []
    # The formula, written out.
    x_ref = x.detach().requires_grad_()
    outputs = []
    for part in x_ref.chunk(groups):
        mean, var = part.mean((0, 2, 3)), part.var((0, 2, 3), correction=0)
        means.append(mean)
        variances.append(part.var((0, 2, 3), correction=1))
        outputs.append((part - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt())
    y_ref = torch.cat(outputs) * plain.weight.view(1, -1, 1, 1) + plain.bias.view(1, -1, 1, 1)
    (y_ref * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    for actual, expected in ((y, y_ref), (grad, x_ref.grad), (weight, plain.weight.grad), (bias, plain.bias.grad)):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(ours.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(ours.running_var, 0.9 + 0.1 * torch.stack(variances).mean(0))


def test_running_statistics_move_only_at_commit_and_once():
    _, ours = pair()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    ours(images())
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())
    norm.commit_statistics(ours)
    after = {name: value.clone() for name, value in ours.state_dict().items()}
    assert not torch.equal(before["running_mean"], after["running_mean"]) and after["num_batches_tracked"] == 1
    norm.commit_statistics(ours)  # nothing was seen in between
    ours.eval()(images())
    norm.commit_statistics(ours)
    assert all(torch.equal(after[name], value) for name, value in ours.state_dict().items())


def test_accumulation_gives_the_statistics_of_one_pass():
    _, whole = pair(groups=4)
    _, parts = pair(groups=4, accumulate=2)
    x = images()
    y = torch.cat([parts(part) for part in x.chunk(2)])
    assert torch.equal(y, whole(x))
    norm.commit_statistics(whole)
    norm.commit_statistics(parts)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)
    assert parts.num_batches_tracked == 1


def test_two_calls_in_a_step_count_as_their_mean():
    _, ours = pair()
    a, b = images(), images() * 3 - 1
    ours(a), ours(b)
    norm.commit_statistics(ours)
    expected = 0.1 * (a.mean((0, 2, 3)) + b.mean((0, 2, 3))) / 2
    torch.testing.assert_close(ours.running_mean, expected.detach())


def test_recomputation_is_not_counted_twice():
    """One of two passes in a step is checkpointed: were it counted again, the mean would lean towards it."""
    _, plain = pair()
    _, ours = pair()
    x, other = images().detach().requires_grad_(), images().detach() * 3 - 1

    def contexts():
        return nullcontext(), Recomputing()

    # The square needs the layer's output again, so that the second pass runs through the layer to its end.
    checkpoint(lambda v: ours(v).square(), x, use_reentrant=False, context_fn=contexts).sum().backward()
    ours(other)
    x_plain = x.detach().requires_grad_()
    plain(x_plain).square().sum().backward()
    plain(other)
    torch.testing.assert_close(x.grad, x_plain.grad)
    for layer in (plain, ours):
        norm.commit_statistics(layer)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.parametrize(
    ("ranks", "groups", "accumulate", "would_do"),
    [(3, 4, 1, "a multiple of 3, or one of [1]"), (4, 4, 2, "a multiple of 8"), (2, 1, 2, "a multiple of 4")],
)
def test_groups_that_do_not_divide_are_refused(ranks, groups, accumulate, would_do, monkeypatch):
    monkeypatch.setattr(norm, "world", lambda: ranks)
    with pytest.raises(ArgumentError, match="bn_groups: expected ") as raised:
        norm.convert(nn.BatchNorm2d(3), groups, accumulate)
    assert would_do in str(raised.value)
    assert f"{ranks} processes" in str(raised.value)


@pytest.fixture
def two_ranks(monkeypatch):
    """This process as both ranks of a group of two: what it gathers and sums is twice its own."""
    with one_rank_of(2):
        monkeypatch.setattr(norm_over_ranks, "gather", lambda x, group: torch.cat([x, x]))
        monkeypatch.setattr(grouped_norm, "gather", lambda x, group: torch.cat([x, x]))
        monkeypatch.setattr(norm_over_ranks.dist, "all_reduce", lambda x, group: x.mul_(2))
        yield


@pytest.mark.parametrize(
    ("dtype", "layout", "by_formula"),
    [
        (torch.float64, torch.contiguous_format, False),
        (torch.float32, torch.channels_last, False),
        (torch.bfloat16, torch.channels_last, False),
        (torch.float64, torch.contiguous_format, True),
    ],
)
def test_over_ranks_is_torchs_batch_norm_of_the_whole_batch(two_ranks, dtype, layout, by_formula):
    """Torch's layer has the same output, gradients and statistics on a batch of two equal halves."""
    plain, ours = (layer.to(torch.promote_types(dtype, torch.float32)) for layer in pair(by_formula=by_formula))
    assert ours.ranks == 2
    x = images(16).detach().to(dtype).to(memory_format=layout)
    each = [x.clone().requires_grad_(), torch.cat([x, x]).requires_grad_()]
    y, whole = ours(each[0]), plain(each[1])
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    slope = torch.linspace(-1, 2, y.numel()).view(y.shape)
    (y * slope).sum().backward()
    (whole * torch.cat([slope, slope])).sum().backward()
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    close = {"rtol": bound, "atol": bound}
    torch.testing.assert_close(y, whole[:16], **close)
    torch.testing.assert_close(each[0].grad, each[1].grad[:16], **close)
    torch.testing.assert_close(2 * ours.weight.grad, plain.weight.grad, **close)
    torch.testing.assert_close(2 * ours.bias.grad, plain.bias.grad, **close)
    norm.commit_statistics(ours)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    close = {"rtol": min(bound, 1e-5), "atol": min(bound, 1e-5)}
    torch.testing.assert_close(ours.running_var, plain.running_var, **close)


def test_over_ranks_a_second_derivative_is_refused_except_by_formula(two_ranks):
    for by_formula in (False, True):
        layer, x = norm.convert(nn.BatchNorm2d(3).double(), by_formula=by_formula), images()
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        if by_formula:
            gradient.square().sum().backward()
            assert x.grad is not None
        else:
            with pytest.raises(RuntimeError, match="once_differentiable"):
                gradient.square().sum().backward()


def test_over_ranks_a_compiler_sees_no_break(two_ranks):
    layer = norm.convert(nn.BatchNorm2d(3).double())
    assert torch._dynamo.explain(layer)(images()).graph_break_count == 0


def test_a_micro_batch_that_does_not_hold_whole_groups_is_an_error():
    _, ours = pair(groups=4)
    with pytest.raises(AssertionError, match="4 equal BatchNorm groups"):
        ours(images(6))


def test_a_commit_takes_no_more_operations_for_more_layers():
    """Each is a launch on a GPU, for which the host takes longer than the GPU computes."""

    class Counting(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operations += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for layers in (2, 40):
        module = norm.convert(nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(layers))))
        module(torch.rand(4, 3))
        with Counting() as counting:
            norm.commit_statistics(module)
        counts.append(counting.operations)
    assert counts[0] == counts[1]
