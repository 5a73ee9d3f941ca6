"""SLURM as launcher: plain ``srun python -m …`` sets variables that identify a task (srun(1), OUTPUT ENVIRONMENT)."""

import re
from collections.abc import MutableMapping

from dira_scale.base.config import logs
from dira_scale.base.errors import UserError

PORTS = range(10_000, 30_000)  # below Linux's ports for outgoing connections


def set_launch_variables(environ: MutableMapping[str, str]) -> None:
    """Set what torchrun would set, from RANK to MASTER_PORT, in a job step of several tasks.

    Does nothing outside SLURM, or if a launcher has set them. The port is computed from job, restart and step: all
    tasks know it, jobs that share a node get different ones, and so does a job whose first life may still hold its own.

    LOCAL_RANK is the number of the task's GPU: 0 where each task sees one alone (``--gpus-per-task=1``), else the
    task's number on its node.

    Raises UserError if a batch script of several tasks starts one process, without srun.
    """
    if "RANK" in environ or "SLURM_PROCID" not in environ:
        return
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_STEP_NUM_TASKS" not in environ and int(environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            f"this SLURM job has {environ['SLURM_NTASKS']} tasks, and its script starts one process: write "
            f"srun python -m dira_scale.{logs.command() or 'COMMAND'} …, or set --ntasks=1"
        )
    if tasks == 1:
        return
    counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", environ["SLURM_STEP_TASKS_PER_NODE"])  # "2(x3),1" is 2, 2, 2, 1
    per_node = [int(count) for count, times in counts for _ in range(int(times or 1))]
    job, step = int(environ["SLURM_JOB_ID"]), int(environ["SLURM_STEP_ID"])
    restarts = int(environ.get("SLURM_RESTART_COUNT", "0"))
    alone = len(environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1 and environ.get("CUDA_VISIBLE_DEVICES")
    variables = {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": 0 if alone else environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "LOCAL_WORLD_SIZE": per_node[int(environ["SLURM_NODEID"])],
        "MASTER_ADDR": first_host(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": PORTS[(job + 997 * step + 7919 * restarts) % len(PORTS)],
    }
    for name, value in variables.items():
        environ.setdefault(name, str(value))


def first_host(nodes: str) -> str:
    """The first node in SLURM's list, where task 0 runs: ``gpu[03-05,9],big1`` gives ``gpu03``."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
