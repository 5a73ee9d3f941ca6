"""What an array waits for: SLURM starts nothing that could only find out that it is blocked.

A run without which none of the array could do anything must be done (``afterok``): if it fails, SLURM ends the array
before it gets nodes, and the status says by which run it is blocked. Of other needed runs the end is enough
(``afterany``): one may fail while the array's other runs go on. A requeued job is neither until it ends for good.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from dira_scale.cluster.records import Run


def dependency(part: Sequence[Run], runs: Mapping[str, Run], jobs: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """sbatch's ``--dependency`` for an array of the runs ``part``; empty if it need not wait.

    Args:
        runs: by id, all that are being submitted; what they need is looked for in them.
        jobs: task (``12_3``) of each run that is queued or running.
        sizes: tasks of the arrays of which all are in ``jobs``.
    """
    needs = [_all_needs(run, runs) & jobs.keys() for run in part]
    every = {jobs[need] for need in set.intersection(*needs)}
    direct = {jobs[need] for run in part for need in run.needs if need in jobs} - every
    arrays = sorted({task.partition("_")[0] for task in direct}, key=int)
    after = {"afterok": _together(every, sizes), "afterany": arrays}
    return ",".join(f"{how}:{':'.join(ids)}" for how, ids in after.items() if ids)


def _all_needs(run: Run, runs: Mapping[str, Run]) -> set[str]:
    """Ids of the runs that have to be done before ``run``, one after another."""
    needed: set[str] = set()
    waiting = [*run.needs]
    while waiting:
        need = waiting.pop()
        if need not in needed:
            needed.add(need)
            waiting += runs[need].needs if need in runs else []
    return needed


def _together(tasks: set[str], sizes: Mapping[str, int]) -> list[str]:
    """``tasks``, those of a whole array by its number."""
    counts = Counter(task.partition("_")[0] for task in tasks)
    whole = {array for array, count in counts.items() if sizes.get(array) == count}
    rest = {task for task in tasks if task.partition("_")[0] not in whole}
    return sorted(whole | rest, key=lambda job: [*map(int, job.split("_"))])
