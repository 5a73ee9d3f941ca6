"""Processes, threads, devices and precision: one Accelerator, and the checks that no launcher makes."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list
from torch import nn
from torch.utils.checkpoint import checkpoint

from dira_scale.config import Parallel
from dira_scale.errors import UserError
from dira_scale.models.norm import recomputing

T = TypeVar("T")
STRATEGIES = ("ddp",)
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def start(parallel: Parallel, precision: str) -> Accelerator:
    """Join the process group if a launcher made one, choose device and threads.

    Raises:
        UserError: the launcher and the configuration disagree, or the launcher started fewer processes than asked.
    """
    if parallel.strategy not in STRATEGIES:
        raise UserError(f"parallel.strategy={parallel.strategy}: there is {', '.join(STRATEGIES)}")
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision}: there is {', '.join(PRECISIONS)}")
    _refuse_launcher_conflicts(parallel.strategy, precision)
    torch.set_num_threads(parallel.threads or default_threads())
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # a resumed run is the same run
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # autocast is entered by the loop, the same way under every strategy
        kwargs_handlers=[
            # Queue and statistics are equal by construction. Looking for unused parameters keeps DDP from rearranging
            # its buckets after the first step, which would make a resumed run add gradients in another order.
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(minutes=10)),
        ],
    )


def default_threads() -> int:
    """This machine's physical cores (those we may use) divided among its processes; launchers would set 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(usable, psutil.cpu_count(logical=False) or usable)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def on_main(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """``function()`` on the main process, None on the others; its ``UserError`` is raised on all of them.

    What only the main process can find out (another writer, another run's folder) must not leave the rest waiting.
    """
    result, error = None, [""]
    if accelerator.is_main_process:
        try:
            result = function()
        except UserError as problem:
            error = [str(problem)]
    broadcast_object_list(error)
    if error[0]:
        raise UserError(error[0])
    return result


def from_main(value: T) -> T:
    """The main process's ``value``, on all of them."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def micro_batch(batch: int, ranks: int, accumulate: int) -> int:
    """Samples of one forward pass on one rank: ``batch / (ranks · accumulate)``.

    Raises:
        UserError: it is not whole; names the numbers of ranks that divide.
    """
    if batch % (ranks * accumulate):
        fit = [n for n in range(1, batch // accumulate + 1) if batch % (n * accumulate) == 0]
        raise UserError(
            f"data.batch={batch} is not divided by {ranks} ranks x parallel.accumulate={accumulate}; "
            f"with this accumulate the ranks can be {', '.join(map(str, fit)) or 'none'}"
        )
    return batch // (ranks * accumulate)


def prepare(accelerator: Accelerator, method: nn.Module) -> nn.Module:
    """``method`` as it is called in training: itself, or wrapped in DDP with several processes."""
    if accelerator.num_processes == 1:
        return method
    accelerator.free_memory()  # forget the stage before
    with warnings.catch_warnings():  # its successor is unknown to Accelerate and to older torch
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return accelerator.prepare_model(method)


def unsynchronised(engine: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Gradients are averaged over ranks in the last micro-batch only."""
    if last or not isinstance(engine, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return engine.no_sync()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 where it is safe, over fp32 parameters."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def average_gradients(module: nn.Module, ranks: int) -> None:
    """Average the gradients of a small replicated module over ranks, in one collective."""
    if ranks == 1:
        return
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= ranks
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def checkpoint_activations(module: nn.Module) -> None:
    """Recompute every block of encoder and decoder in the backward pass. Parameter names stay as they are."""
    for block in list(_outermost(module)):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_contexts)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """Members of sequences that are blocks themselves, not single layers; never one inside another."""
    for child in module.children():
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(list(child.children())) > 1:
            yield child
        else:
            yield from _outermost(child)


def _contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _Recomputing()


class _Recomputing(AbstractContextManager[None]):
    """``recomputing`` that can be entered again: a pass that is differentiated twice is recomputed twice."""

    def __enter__(self) -> None:
        self._inside = recomputing()
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)


def _refuse_launcher_conflicts(strategy: str, precision: str) -> None:
    for name, other in (("ACCELERATE_USE_FSDP", "fsdp"), ("ACCELERATE_USE_DEEPSPEED", "deepspeed")):
        if os.environ.get(name, "false").lower() == "true":
            raise UserError(
                f"accelerate's own configuration asks for {other}, parallel.strategy={strategy}: drop one of them"
            )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked != "no" and asked != precision:
        raise UserError(f"accelerate launch asks for --mixed_precision {asked}, precision={precision}: make them equal")
    processes = _asked_processes()
    if processes > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise UserError(
            f"accelerate launch was asked for {processes} processes and started one (with --cpu it needs mpirun); "
            f"use: torchrun --nproc_per_node {processes} -m dira_scale.pretrain …, or --multi_gpu instead of --cpu"
        )


def _asked_processes() -> int:
    """``--num_processes`` on the command line of the launcher that started this process."""
    try:
        words = psutil.Process().parent().cmdline()
    except (psutil.Error, AttributeError):
        return 1
    for i, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag in ("--num_processes", "--num-processes", "-n") and "accelerate" in " ".join(words[:i]):
            number = value or (words[i + 1] if i + 1 < len(words) else "")
            return int(number) if number.isdigit() else 1
    return 1
