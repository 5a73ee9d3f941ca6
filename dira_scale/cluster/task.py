"""The process that carries out a run of a sweep: which job it belongs to, on which machines."""

import os
import socket
from dataclasses import dataclass

from dira_scale.distributed.slurm import hosts


@dataclass(frozen=True)
class Task:
    """One task of a job; on this machine, a job has one.

    Attributes:
        cluster: ``slurm`` or ``local``.
        job: SLURM's id, ``12_3`` in an array, or the process id.
        rank, node: the task's number in the job, and its node's.
        hosts: names of the job's nodes.
    """

    cluster: str
    job: str
    rank: int
    node: int
    hosts: list[str]

    @property
    def on_slurm(self) -> bool:
        return self.cluster == "slurm"


def this_task(cluster: str) -> Task:
    """Of this process, as SLURM's variables say it (srun(1), OUTPUT ENVIRONMENT)."""
    if cluster == "local":
        return Task(cluster, str(os.getpid()), 0, 0, [socket.gethostname()])
    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    rank, node = (int(os.environ.get(name, "0")) for name in ("SLURM_PROCID", "SLURM_NODEID"))
    return Task(cluster, job, rank, node, hosts(os.environ["SLURM_JOB_NODELIST"]))


def restarts() -> int:
    """How often SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
