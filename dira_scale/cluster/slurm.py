"""Arrays of jobs on SLURM: what sbatch is given, and its answers in the profile's words."""

import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dira_scale.cluster import queue
from dira_scale.cluster.check import gpus_of
from dira_scale.cluster.config import Cluster, SweepConfig
from dira_scale.cluster.records import Run, Submission, SweepFolder
from dira_scale.cluster.refusals import check_hours, explain, longest_array
from dira_scale.cluster.unanswered import is_lost
from dira_scale.errors import UserError


def options(name: str, run: Run, profile: Cluster, count: int, after: str = "", token: str = "") -> dict[str, object]:
    """sbatch's options for an array of ``count`` jobs like ``run``, to begin once ``after`` holds, or never.

    ``token``: the last word of their comment.
    """
    assert profile.hours is not None
    tasks = run.launch.processes if run.launch.launcher == "tasks" else 1
    more = {key.replace("_", "-"): value for key, value in (profile.sbatch or {}).items()}
    given: dict[str, object] = {
        "job-name": f"{name}/{run.phase}",
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": max(1, round(60 * profile.hours)),
        "signal": f"USR2@{profile.signal_delay}",
        "nodes": run.launch.nodes,
        "ntasks-per-node": tasks,
        "cpus-per-task": profile.cpus_per_task * (run.launch.processes // tasks),
        "gpus-per-node": gpus_of(run, profile) or None,
        "mem": None if profile.memory is None else f"{round(1000 * profile.memory)}M",
        "array": f"0-{count - 1}%{min(count, profile.parallel or count)}",
        "open-mode": "append",
        "dependency": after or None,
        "kill-on-invalid-dep": "yes" if after else None,
        **more,
        "comment": f"{more.get('comment', '')} {token}".strip() or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def script(folder: SweepFolder, given: Mapping[str, object], profile: Cluster, *words: str) -> str:
    """The text for sbatch: its options, the profile's set-up, and Python with ``words`` as each task of a job."""
    lines = [f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}")
             for key, value in given.items()]  # fmt: skip
    logs = shlex.quote(f"{folder.path}/jobs/%A_%a_%t_log.out")
    python = profile.python or shlex.quote(sys.executable)
    command = f"srun --unbuffered --output={logs} {python} -u -m {shlex.join(words)}"
    first = f"#SBATCH --output={logs.replace('%t', '0')}"  # of the script itself, and of the first task
    return "\n".join(["#!/bin/bash", *lines, first, *(profile.setup or []), command, ""])


def of_runs(
    folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], after: str = "", token: str = "TOKEN"
) -> str:
    """The text for sbatch of an array of ``runs``, of one phase."""
    profile = config.profile(runs[0].phase)
    given = options(config.sweep.name, runs[0], profile, len(runs), after, token)
    job = ("dira_scale.cluster.job", "slurm", str(folder.path), str(profile.tries), token)
    return script(folder, given, profile, *job)


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
            ids, token = [run.id for run in part], uuid.uuid4().hex
            asked = Submission("slurm", "", ids, time.time(), socket.gethostname(), token)
            folder.submitted(asked)
            try:
                job = sbatch(folder, of_runs(folder, config, part, after, token), token)
            except subprocess.SubprocessError as error:
                if not is_lost(error):
                    folder.submitted(replace(asked, runs=[]))
                raise UserError(explain(error, phase, profile)) from error
            folder.submitted(replace(asked, job=job, when=time.time()))
            jobs |= {run.id: f"{job}_{task}" for task, run in enumerate(part)}
            sizes[job] = len(part)
    last = Run("results", "results", "sweep", [], "")
    small = replace(config.cluster, gpus_per_node=0, memory=None, cpus_per_task=1)
    arrays = sorted({task.partition("_")[0] for task in jobs.values()}, key=int)
    given = options(config.sweep.name, last, small, 1, f"afterany:{':'.join(arrays)}")
    results = script(folder, given, small, "dira_scale.sweep", "results", f"folder={folder.path}")
    try:
        sbatch(folder, results, "results")
    except subprocess.SubprocessError as error:
        raise UserError(explain(error, last.phase, small)) from error


def sbatch(folder: SweepFolder, text: str, name: str) -> str:
    """Submit a script, which is kept as ``jobs/NAME.sh``; the number of its array.

    Raises subprocess.SubprocessError if sbatch refuses it, or has not answered in time.
    """
    file = folder.path / "jobs" / f"{name}.sh"
    file.write_text(text)
    done = subprocess.run(
        ["sbatch", "--parsable", file], check=True, capture_output=True, text=True, timeout=queue.SECONDS
    )
    return done.stdout.split()[-1].partition(";")[0]


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
