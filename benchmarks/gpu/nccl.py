"""Collectives in a group of one process: calls that one GPU never makes, and what each takes the host.

NCCL's kernels, autograd functions and asynchronous handles run for the first time here, and not on eight GPUs.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu import items
from benchmarks.gpu.report import Job, figure
from benchmarks.synthetic import wait
from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.train.distributed import collectives
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.models.norm_over_ranks import BatchNormOverRanks

CALLS, OWN = 50, 4  # calls that are timed; operations around a collective
LAUNCH, DISPATCH = 0.05, 0.0075  # ms of the host: NCCL's call (estimated); an operation (``plan.dispatch``)
NEAR = 1e-4  # of the largest value: other orders of sums, in IEEE fp32
Call = Callable[[Tensor], Tensor]


def called(device: torch.device, make: Callable[[], Call], plain: Call, messages: int, sides: int) -> dict[str, Any]:
    """Milliseconds of a call in a group of one, which must give what ``plain`` does: of the host, and in all.

    The package is told of two processes, so that it returns nothing early; the group's own size is what sets shapes.
    """
    set_fp32("fp32")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    run, x = make(), torch.randn(32, 64, sides, sides, device=device)
    with Ledger([]) as ledger:
        right = plain(x)
    with mock.patch.object(collectives, "world", lambda: 2):
        off = float((run(x) - right).abs().max() / right.abs().max())
        wait(device)()
        start = time.perf_counter()
        for _ in range(CALLS):
            run(x)
        host = time.perf_counter() - start
        wait(device)()
    whole, expected = time.perf_counter() - start, messages * LAUNCH + (ledger.operations + OWN) * DISPATCH
    note = f"{1e3 * whole / CALLS:.3f} ms until it is done, off by {off:.0e}"
    return {"figures": {"host": figure(1e3 * host / CALLS, "ms", expected, note, off <= NEAR)}}


def gathered(x: Tensor) -> Tensor:
    """By a call that is awaited."""
    out = torch.empty_like(x)
    collectives._all_gather(out, x, async_op=True).wait()
    return out


def gradient(run: Call, x: Tensor) -> Tensor:
    """The gradient of the sum of squares of what ``run`` gives."""
    x = x.detach().requires_grad_()
    (of,) = torch.autograd.grad(run(x).square().sum(), x)
    return of


def norm(x: Tensor, over_ranks: bool) -> Tensor:
    """BatchNorm, its result to the power of three: its gradient would be 0."""
    weight, bias, mean, var = torch.ones(4, x.shape[1], device=x.device)
    if over_ranks:
        return torch.as_tensor(BatchNormOverRanks.apply(x, weight, bias, mean, var, 1e-5, None)).pow(3)
    return F.batch_norm(x, None, None, weight, bias, True).pow(3)


def network(device: torch.device, replicated: bool) -> Call:
    """A gradient of a network of eight layers, in DDP or alone."""
    torch.manual_seed(0)
    module: Any = nn.Sequential(*[nn.Conv2d(64, 64, 1) for _ in range(8)]).to(device)
    model = DistributedDataParallel(module, find_unused_parameters=True) if replicated else module

    def step(x: Tensor) -> Tensor:
        module.zero_grad()
        model(x).square().mean().backward()
        weight: Tensor = module[0].weight.grad
        return weight.clone()

    return step


def run(job: Job) -> bool:
    """All of them."""
    device, twice = torch.device("cuda" if torch.cuda.is_available() else "cpu"), lambda x: 2 * x
    calls: dict[str, tuple[Callable[[], Call], Call, int]] = {
        "all_gather, asynchronous": (lambda: gathered, torch.clone, 1),
        "all_to_all": (lambda: lambda x: collectives._all_to_all(x, [len(x)], [len(x)]), torch.clone, 1),
        "gather and reduce_scatter": (lambda: partial(gradient, collectives.gather), twice, 2),
        "all_reduce": (lambda: partial(gradient, collectives.reduce_sum), twice, 1),
        "DDP": (partial(network, device, True), network(device, False), 1),
        "BatchNorm over ranks": (
            lambda: partial(gradient, partial(norm, over_ranks=True)),
            partial(gradient, partial(norm, over_ranks=False)), 2,
        ),
    }  # fmt: skip
    sides = 4 if job.rehearse else 56
    return items.run(job, {name: partial(called, device, *call, sides) for name, call in calls.items()})
