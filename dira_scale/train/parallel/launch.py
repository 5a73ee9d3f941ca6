"""Joining the processes that a launcher started: device, threads, and the checks that no launcher makes."""

import os
from datetime import timedelta

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from dira_scale.config import Parallel
from dira_scale.errors import UserError
from dira_scale.train.parallel.precision import PRECISIONS

STRATEGIES = ("ddp",)


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
