"""Open files and sockets: the limit of a process is raised as far as it may be; one that is too low is said.

gloo connects every process to every other in each of its groups, and says ``Too many open files`` where that fails.
"""

import logging
import os
import resource
import socket

import psutil

from dira_scale.errors import UserError, local_rank

GROUPS = 3  # gloo's, of all processes: control messages (or the default group), checkpoints, signals
PER_GROUP = 4  # open files of one, beside its connections: a listening socket, an epoll and a pipe's two ends
STORE = 11  # of torch's store in the process that serves it, beside the connections of the others; in those it is 1
# Everything else, by a generous guess: 256 shards (data/manifest/dataset.py), loaders, logs, checkpoints, libraries,
# NCCL's sockets, groups of a strategy (DeepSpeed has one) and of BatchNorm over a part of the processes.
SPARE = 512
logger = logging.getLogger(__name__)


def allow_open_files() -> None:
    """Raise this process's limit to the hard one; called before the processes of a run connect to each other.

    Warns, on the first process of a machine, of a limit that training may exceed. Nothing happens with one process.

    Raises:
        UserError: the hard limit is lower than what the connections take.
    """
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    least = psutil.Process().num_fds() + connections(rank, ranks)
    if hard == resource.RLIM_INFINITY or hard >= least + SPARE:
        return
    enough = 1 << (least + SPARE - 1).bit_length()  # a power of 2
    allowed = f"{socket.gethostname()} allows a process {hard} open files"
    remedy = (
        f"set its hard limit to {enough}: LimitNOFILE={enough} of slurmd's service, --ulimit nofile={enough} of a "
        f"container, or nofile in /etc/security/limits.conf; `ulimit -Hn` shows it"
    )
    if hard < least:
        raise UserError(f"{allowed}, and connecting {ranks} processes takes at least {least} in each: {remedy}")
    if local_rank() == 0:
        text = "%s, and connecting %d processes takes %d: little is left for shards and loaders; %s"
        logger.warning(text, allowed, ranks, least, remedy, extra={"every_rank": True})


def connections(rank: int, ranks: int) -> int:
    """How many open files connecting takes in process ``rank``, at least."""
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun does
    return GROUPS * (ranks - 1 + PER_GROUP) + (ranks - 1 + STORE if serves else 1)
