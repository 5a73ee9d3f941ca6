"""Arrays of jobs on SLURM, submitted by submitit."""

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from dira_scale.base.errors import UserError
from dira_scale.sweep.check import gpus_of
from dira_scale.sweep.config import Cluster, SweepConfig
from dira_scale.sweep.job import Job
from dira_scale.sweep.records import Run, SweepFolder

ENDLESS = 10**9  # requeues that submitit allows: our own rule (cluster.tries) decides
LONGEST = 1000  # jobs of an array: below SLURM's default of MaxArraySize, 1001


def parameters(name: str, run: Run, profile: Cluster, after: str = "") -> dict[str, Any]:
    """Return submitit's parameters for jobs like ``run``, to begin once ``after`` holds, or never."""
    assert profile.hours is not None
    values: dict[str, Any] = {
        "job_name": f"{name}/{run.phase}",
        "account": profile.account,
        "partition": profile.partition,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "time": max(1, round(60 * profile.hours)),
        "signal_delay_s": profile.signal_delay,
        "nodes": run.launch.nodes,
        "ntasks_per_node": run.launch.processes,
        "cpus_per_task": profile.cpus_per_task,
        "gpus_per_node": gpus_of(run, profile) or None,
        "mem": None if profile.memory is None else f"{round(1000 * profile.memory)}M",
        "array_parallelism": profile.parallel or ENDLESS,
        "setup": profile.setup,
        "additional_parameters": (profile.sbatch or {}) | ({"kill-on-invalid-dep": "yes"} if after else {}),
        "dependency": after or None,
        "stderr_to_stdout": True,
    }
    return {key: value for key, value in values.items() if value is not None}


def script(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run]) -> str:
    """The text that sbatch would be given for ``runs``, of one phase; what they depend on has no numbers yet."""
    profile = config.profile(runs[0].phase)
    python = profile.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder.path / 'jobs'))}"
    count = len(runs) if len(runs) > 1 else None
    options = parameters(config.sweep.name, runs[0], profile)
    return str(_make_sbatch_string(command=command, folder=folder.path / "jobs", map_count=count, **options))


def require_sbatch() -> None:
    """Raise UserError where nothing can be submitted."""
    if not shutil.which("sbatch"):
        raise UserError("cluster: executor slurm, but there is no sbatch here: use a login node, or cluster=local")


def submit(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], queued: Mapping[str, str]) -> None:
    """Submit ``runs``, phase after phase, each to begin when what it needs allows.

    Jobs are recorded once sbatch has answered, and start nothing before: if its answer is lost, the runs are submitted
    again, and none runs twice.

    Args:
        runs: each after those that it needs.
        queued: the jobs of those that are queued or running already.

    Raises:
        UserError: SLURM refuses. What was submitted before that, and only that, is recorded.
    """
    require_sbatch()
    jobs = dict(queued)
    for phase in dict.fromkeys(run.phase for run in runs):
        group, profile = [run for run in runs if run.phase == phase], config.profile(phase)
        for first in range(0, len(group), LONGEST):
            part = group[first : first + LONGEST]
            python = profile.python or shlex.quote(sys.executable)
            executor = SlurmExecutor(folder.path / "jobs", ENDLESS, python=python)
            executor.update_parameters(**parameters(config.sweep.name, part[0], profile, dependency(part, jobs)))
            calls = [Job(str(folder.path), run.id, profile.tries) for run in part]
            try:
                with redirect_stderr(StringIO()):  # sbatch's message, which the error has
                    submitted = executor.submit_array(calls)
            except (FailedJobError, FailedSubmissionError) as error:
                why = " ".join(str(error).split()) or f"sbatch failed: {error.__cause__}"
                raise UserError(f"phase {phase}: {why}") from error
            taken = {run.id: str(job.job_id) for run, job in zip(part, submitted, strict=True)}
            folder.submitted(taken)
            jobs |= taken


def dependency(part: Sequence[Run], jobs: Mapping[str, str]) -> str:
    """sbatch's ``--dependency`` for an array of the runs ``part``; empty if it need not wait.

    A run that each of the array needs must be done (``afterok``): if it fails, SLURM ends the array before it gets
    nodes, and the status says by which run it is blocked. Of other needed runs the end is enough (``afterany``): one
    may fail while the others continue. A requeued job is neither until it ends for good.

    Args:
        jobs: of each run that is queued or running.
    """
    shared = set.intersection(*(set(run.needs) for run in part))
    done = [jobs[need] for need in sorted(shared) if need in jobs]
    ended = {jobs[need].partition("_")[0] for run in part for need in run.needs if need in jobs and need not in shared}
    after = {"afterok": done, "afterany": sorted(ended, key=int)}
    return ",".join(f"{how}:{':'.join(ids)}" for how, ids in after.items() if ids)
