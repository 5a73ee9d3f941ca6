"""Joining and leaving the process group that a launcher started; device, threads and memory of a process."""

import ctypes
import logging
import os
import resource
import socket
import time
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError, local_rank
from dira_scale.base.machine.device import compute_device
from dira_scale.base.machine.hardware import CPUS_PER_TASK, usable_cpus
from dira_scale.base.termination import end_at_once
from dira_scale.train.distributed.collectives import set_timeout
from dira_scale.train.distributed.config import AUTO, FAST, Parallel, check_shard
from dira_scale.train.distributed.deepspeed import plugin
from dira_scale.train.distributed.precision import choose, set_fp32
from dira_scale.train.distributed.rendezvous import meet
from dira_scale.train.distributed.slurm import set_launch_variables
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.distributed.world import World

logger = logging.getLogger(__name__)

WATCHED = 0.3  # seconds
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
# gloo connects every process to every other in each of its groups of all processes, and says ``Too many open files``
# where that fails. The groups are of control messages (or the default one), of checkpoints and, on CPUs, of signals;
# each has a listening socket, an epoll and a pipe beside its connections.
GROUPS, PER_GROUP = 3, 4
# From so many processes on, two connect when one first sends to the other: of 1,024 each would ask the store 3,000
# times, for 25 MB. All have sent what a run sends once the first step has ended.
LAZY = 64
SPARE = 512  # open files of shards, loaders, logs, checkpoints, libraries and other groups, by a generous guess


def start(parallel: Parallel, precision: str) -> World:
    """Join the process group if there is a launcher; choose device, threads and, if it is ``auto``, precision.

    Raises UserError if ``parallel.shard`` does not divide the processes, torch cannot use this machine's GPUs, or the
    processes do not reach each other or may not have as many sockets as that takes.
    """
    set_launch_variables(os.environ)
    with at("parallel"):
        check_shard(parallel.shard, int(os.environ.get("WORLD_SIZE", "1")))
    device, share = compute_device(parallel.device), default_threads()
    cuda = device.type == "cuda"
    idle = share if cuda else min(share, idle_cores(share))
    threads = idle if parallel.threads == AUTO else parallel.threads
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # otherwise Accelerate chooses
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # resuming must be exact
    # cuDNN's attention is refused for its backward pass, which has no deterministic form, only if deterministic
    # algorithms are on in the forward pass; flash attention obeys in the backward pass (train/engine/step.py).
    torch.backends.cuda.enable_cudnn_sdp(parallel.attention == FAST)
    precision = choose(precision, device)
    set_fp32(precision)
    zero = parallel.strategy.startswith("zero")
    if cuda:  # what torch's deterministic algorithms ask for (train/engine/step.py), before cuBLAS is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        keep_freed_memory()
    if parallel.device == "cpu":  # DeepSpeed, and Accelerate with its plug-in, would take a GPU where there is one
        os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
    if parallel.strategy != "ddp" and "RANK" not in os.environ:  # sharded strategies need a process group even of one
        with socket.create_server(("127.0.0.1", 0)) as probe:  # at a free port
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        os.environ.update(place | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"})
    timeout = timedelta(seconds=parallel.timeout)
    set_timeout(timeout)
    allow_open_files()
    store = meet(parallel.timeout)
    if store is not None:  # Accelerate would use an elastic launcher's store, with entries of earlier starts in it
        rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if parallel.timeout <= TIMINGS.dead_after:
            wait = f"up to {TIMINGS.dead_after:g} s, in which the other processes wait; set it higher"
            logger.warning(
                "parallel.timeout=%d: taking over a run from another machine takes %s", parallel.timeout, wait
            )
        dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=ranks, timeout=timeout)
        if ranks > 1:  # gloo's threads may still hold the last collective's tensors when the command ends
            end_at_once()
    accelerator = Accelerator(
        cpu=not cuda and not zero,  # ignored with a DeepSpeed plug-in
        deepspeed_plugin=plugin(int(parallel.strategy.removeprefix("zero")), parallel.offload, cuda) if zero else None,
        mixed_precision="no",  # the task enters autocast, the same way under every strategy
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo" if zero and not cuda else None, timeout=timeout)],
    )
    return World(accelerator, precision, idle)


def allow_open_files() -> None:
    """Raise this process's limit to the hard one, before the processes of a run connect to each other, of LAZY or more
    when they first need to.

    Warns, on the first process of a machine, of a limit that training may exceed.

    Raises UserError if the hard limit is lower than what the connections take.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return
    if ranks >= LAZY:
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lazy = os.environ.get("TORCH_GLOO_LAZY_INIT") == "1"
    others = min(ranks - 1, 2 + 2 * ranks.bit_length()) if lazy else ranks - 1  # of a ring, and of trees
    least = psutil.Process().num_fds() + GROUPS * (others + PER_GROUP)
    if hard == resource.RLIM_INFINITY or hard >= least + SPARE:
        return
    enough = 1 << (least + SPARE - 1).bit_length()  # a power of 2
    problem = (
        f"{socket.gethostname()} allows a process {hard} open files, and connecting {ranks} processes takes at least "
        f"{least} in each, beside those of shards and loaders: set its hard limit to {enough}: LimitNOFILE={enough} of "
        f"slurmd's service, --ulimit nofile={enough} of a container, or nofile in /etc/security/limits.conf; "
        "`ulimit -Hn` shows it"
    )
    if hard < least:
        raise UserError(problem)
    if local_rank() == 0:
        logger.warning(problem, extra={"every_rank": True})


def default_threads() -> int:
    """The usable physical cores of this machine, divided among its processes; launchers would set 1.

    At most as many as SLURM, or a sweep on this machine, gives a process.
    """
    usable = usable_cpus()
    cores = min(usable, psutil.cpu_count(logical=False) or usable)
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if "SLURM_CPUS_PER_TASK" in os.environ:  # srun may already have bound this process to its share
        cores = min(cores, int(os.environ["SLURM_CPUS_PER_TASK"]))
        sharing = sharing if "TORCHELASTIC_RUN_ID" in os.environ else 1  # the task is a launcher of several
    allowed = int(os.environ.get(CPUS_PER_TASK, cores))
    return max(1, min(cores // sharing, allowed))


def default_workers(device: torch.device, cores: int | None = None) -> int:
    """Decoding threads of a process that has ``cores`` to itself, by default :func:`default_threads`: beside a GPU all
    but the one that launches its work; on a CPU, where networks want the cores too, at most two."""
    cores = default_threads() if cores is None else cores
    return max(1, cores - 1) if device.type == "cuda" else max(1, min(2, cores))


def idle_cores(share: int) -> int:
    """The cores, at least one, that other programs leave idle now, watched for WATCHED seconds.

    OpenMP's threads wait for each other many times a step, so one whose core another program uses, too, slows all of
    them down: of two threads on two cores, one of them busy, a third of the speed is left, of one thread all of it.
    Not looked at, and ``share``, where there is nothing to choose, and of several processes or in a SLURM job, which
    have their cores to themselves.
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE", "1") == "1" and "SLURM_JOB_ID" not in os.environ
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    if share == 1 or not alone or max(cpus) >= len(psutil.cpu_times(percpu=True)):  # hidden CPUs, as in a container
        return share

    def used() -> float:
        times = psutil.cpu_times(percpu=True)
        return sum(times[cpu].user + times[cpu].system for cpu in cpus) - time.process_time()

    before, began = used(), time.monotonic()
    time.sleep(WATCHED)
    return max(1, round(len(cpus) - (used() - before) / (time.monotonic() - began)))


def crowded(idle: int, key: str) -> str:
    """The line for this process's user where other programs leave ``idle`` cores, too few; empty otherwise."""
    threads, share = torch.get_num_threads(), default_threads()
    if idle >= share:
        return ""
    busy = f"other programs keep {share - idle} of {share} cores busy"
    if threads > idle:
        return f"{busy}, and {threads} threads wait for each other: {key}={idle} is faster until they end"
    return f"{busy}: computing on {threads} thread{'s' * (threads > 1)} ({key}={share} uses all cores)"


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one: returning it and faulting it in again page by page
    takes 3 % of a ResNet-50's step on a CPU. No effect without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
