"""Arrays of jobs on SLURM, submitted through submitit, within the limits of its configuration."""

import re
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from dira_scale.errors import UserError
from dira_scale.sweep.check import gpus_of
from dira_scale.sweep.config import Cluster, SweepConfig
from dira_scale.sweep.executors import ENDLESS, SUBMISSION_ERRORS, Arrays, batch_script, explain, is_lost, pickles
from dira_scale.sweep.job import Job
from dira_scale.sweep.queue import run_slurm
from dira_scale.sweep.records import Run, Submission, SweepFolder
from dira_scale.sweep.results import write_results


def parameters(name: str, run: Run, profile: Cluster, after: str = "") -> dict[str, Any]:
    """What submitit makes sbatch's options from: jobs like ``run``, to begin once ``after`` holds, or never."""
    assert profile.hours is not None
    tasks = run.launch.processes if run.launch.launcher == "tasks" else 1
    given: dict[str, Any] = {
        "job_name": f"{name}/{run.phase}",
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": max(1, round(60 * profile.hours)),
        "signal_delay_s": profile.signal_delay,
        "nodes": run.launch.nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": profile.cpus_per_task * (run.launch.processes // tasks),
        "gpus_per_node": gpus_of(run, profile) or None,
        "mem": None if profile.memory is None else f"{round(1000 * profile.memory)}M",
        "array_parallelism": profile.parallel or ENDLESS,
        "setup": profile.setup,
        "additional_parameters": (profile.sbatch or {}) | ({"kill-on-invalid-dep": "yes"} if after else {}),
        "dependency": after or None,
        "stderr_to_stdout": True,
    }
    return {key: value for key, value in given.items() if value is not None}


def python(profile: Cluster) -> str:
    """What starts Python in a job, as a shell reads it."""
    return profile.python or shlex.quote(sys.executable)


def script(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run]) -> str:
    """The text that sbatch would be given for ``runs``, of one phase; what they depend on has no numbers yet."""
    profile = config.profile(runs[0].phase)
    given = parameters(config.sweep.name, runs[0], profile)
    return batch_script(folder.path / "jobs", python(profile), len(runs), given)


def submit(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], queued: Mapping[str, str]) -> None:
    """Submit ``runs``, phase after phase, each to begin when what it needs allows; last, the results.

    Args:
        runs: each after those that it needs.
        queued: the task, ``12_3``, of those that are queued or running already.

    Raises:
        UserError: SLURM refuses. What was submitted before that, and only that, is recorded.
    """
    if not shutil.which("sbatch"):
        raise UserError("cluster: executor slurm, but there is no sbatch here: use a login node, or cluster=local")
    phases = list(dict.fromkeys(run.phase for run in runs))
    check_hours(config, phases)
    longest, jobs = longest_array(), dict(queued)
    by_id, sizes = {run.id: run for run in runs}, dict[str, int]()
    (folder.path / "jobs").mkdir(parents=True, exist_ok=True)
    for phase in phases:
        group, profile = [run for run in runs if run.phase == phase], config.profile(phase)
        for first in range(0, len(group), longest):
            part = group[first : first + longest]
            after = dependency(part, by_id, jobs, sizes)
            calls = [Job(str(folder.path), run.id, profile.tries) for run in part]
            ids, token = [run.id for run in part], uuid.uuid4().hex
            request = Submission("slurm", "", ids, time.time(), socket.gethostname(), token)
            folder.submitted(request)
            try:
                job = _submit(folder, config, part[0], calls, after, token)
            except UserError as error:
                if not is_lost(error.__cause__):
                    folder.submitted(replace(request, runs=[]))
                raise
            folder.submitted(replace(request, job=job, when=time.time()))
            jobs |= {run.id: f"{job}_{task}" for task, run in enumerate(part)}
            sizes[job] = len(part)
    last = Run("results", "results", "sweep", [], "")
    small = replace(config.cluster, gpus_per_node=0, memory=None, cpus_per_task=1)
    arrays = sorted({task.partition("_")[0] for task in jobs.values()}, key=int)
    after = f"afterany:{':'.join(arrays)}"
    _submit(folder, config, last, [_Results(str(folder.path))], after, uuid.uuid4().hex, small)


class _Results:
    """The last job's work."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        write_results(Path(self.folder))


def _submit(
    folder: SweepFolder,
    config: SweepConfig,
    like: Run,
    calls: Sequence[Callable[[], Any]],
    after: str,
    token: str,
    profile: Cluster | None = None,
) -> str:
    """The number of an array of ``calls``, whose comment ends with ``token``."""
    profile, jobs = profile or config.profile(like.phase), folder.path / "jobs"
    more = dict(profile.sbatch or {})
    comment = f"{more.pop('comment', '')} {token}".strip()
    executor = Arrays(jobs, python(profile), pickles(jobs, token, len(calls)))
    try:
        given = parameters(config.sweep.name, like, replace(profile, sbatch=more or None), after)
        executor.update_parameters(**given, comment=comment)
        with redirect_stderr(StringIO()):  # sbatch's message, which the error has
            submitted = executor.submit_array(calls)
    except SUBMISSION_ERRORS as error:
        raise UserError(f"phase {like.phase}: {explain(error)}") from error
    return str(submitted[0].job_id).partition("_")[0]


def dependency(part: Sequence[Run], runs: Mapping[str, Run], jobs: Mapping[str, str], sizes: Mapping[str, int]) -> str:
    """sbatch's ``--dependency`` for an array of the runs ``part``; empty if it need not wait.

    A run without which none of the array could do anything must be done (``afterok``): if it fails, SLURM ends the
    array before it gets nodes, and the status says by which run it is blocked. Of other needed runs the end is enough
    (``afterany``): one may fail while the others continue. A requeued job is neither until it ends for good.

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


def longest_array() -> int:
    """Jobs that an array may have on this cluster."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_slurm(["scontrol", "show", "config"]), re.MULTILINE)
    assert match, "scontrol show config names MaxArraySize"
    return int(match[1])


def check_hours(config: SweepConfig, phases: Sequence[str]) -> None:
    """SLURM takes a job that is longer than its partition allows, and never starts it."""
    answer = (line.split("|") for line in run_slurm(["sinfo", "--noheader", "--format=%P|%l"]).splitlines())
    limits = {name: _minutes(limit) for name, limit in answer}
    for phase in phases:
        profile = config.profile(phase)
        named = profile.partition.split(",") if profile.partition else [n for n in limits if n.endswith("*")]
        allowed = [limit for name, limit in limits.items() if name in named or name.rstrip("*") in named]
        assert profile.hours is not None
        if allowed and 60 * profile.hours > max(allowed):
            raise UserError(
                f"phase {phase}: cluster.hours={profile.hours:g}: partition {profile.partition or '(the default)'} "
                f"allows {max(allowed) / 60:g}; a run that needs longer is queued again after a checkpoint"
            )


def _minutes(limit: str) -> float:
    """Return the minutes of a time as SLURM writes it: ``infinite``, ``1-12:00:00``, ``30:00``, or minutes and seconds,
    ``1:00``."""
    if not limit[0].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, 0, *map(int, clock.split(":"))][-3:]
    return 24 * 60 * int(days or 0) + 60 * parts[0] + parts[1] + parts[2] / 60
