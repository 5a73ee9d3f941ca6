"""SLURM as launcher: under plain ``srun python -m …`` its variables say who is who (srun(1), OUTPUT ENVIRONMENT)."""

import re
from collections.abc import MutableMapping

from dira_scale.errors import UserError

PORTS = range(10_000, 30_000)  # below those that Linux takes for outgoing connections


def adopt(environ: MutableMapping[str, str]) -> None:
    """Set what torchrun would set, from RANK to MASTER_PORT, for a task of a job step of several.

    Nothing happens where a launcher has done so, and outside SLURM. The port follows from job and step, so that all
    tasks know it, and jobs that share a node get different ones.

    Raises:
        UserError: a batch script of several tasks runs this once, without srun.
    """
    if "RANK" in environ or "SLURM_PROCID" not in environ:
        return
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_STEP_NUM_TASKS" not in environ and int(environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            f"this SLURM job has {environ['SLURM_NTASKS']} tasks, and its script starts one process: write "
            "srun python -m dira_scale.pretrain …, or ask for --ntasks=1"
        )
    if tasks == 1:
        return
    per_node = _per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    job, step = int(environ["SLURM_JOB_ID"]), int(environ["SLURM_STEP_ID"])
    found = {
        "RANK": environ["SLURM_PROCID"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "LOCAL_WORLD_SIZE": per_node[int(environ["SLURM_NODEID"])],
        "MASTER_ADDR": first_host(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": PORTS[(job + 997 * step) % len(PORTS)],
    }
    for name, value in found.items():
        environ.setdefault(name, str(value))


def first_host(nodes: str) -> str:
    """The first name of SLURM's list of nodes: ``gpu[03-05,9],big1`` gives ``gpu03``. Task 0 runs there."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _per_node(counts: str) -> list[int]:
    """Tasks of each node: ``2(x3),1`` gives 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
