"""Arrays of jobs on SLURM, submitted through submitit; what sbatch answers, in the profile's words."""

import shlex
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor, SlurmJob, _make_sbatch_string

from dira_scale.cluster import queue
from dira_scale.cluster.check import gpus_of
from dira_scale.cluster.config import Cluster, SweepConfig
from dira_scale.cluster.dependencies import dependency
from dira_scale.cluster.job import Job
from dira_scale.cluster.records import Run, Submission, SweepFolder
from dira_scale.cluster.refusals import check_hours, explain, longest_array
from dira_scale.cluster.results import write_results
from dira_scale.cluster.unanswered import is_lost, pickles
from dira_scale.errors import UserError

ENDLESS = 10**9  # requeues that submitit allows: our own rule (cluster.tries) decides


class Arrays(SlurmExecutor):
    """submitit's executor, which always submits an array, of one job too, and does not wait for ever.

    Attributes:
        calls: files of the array's calls until it has a number; kept where it is not known whether it has one.
    """

    calls: Sequence[Path] = ()

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        for delayed, path in zip(delayed_submissions, self.calls, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(path)
        self.parameters["map_count"] = len(self.calls)
        try:
            first = self._submit_command(self._submitit_command_str)
        except Exception as error:
            if not lost(error):
                for path in self.calls:
                    path.unlink()
            raise
        jobs: list[Any] = [SlurmJob(self.folder, f"{first.job_id}_{n}", [0]) for n in range(len(self.calls))]
        for job, path in zip(jobs, self.calls, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["timeout", str(queue.SECONDS), *super()._make_submission_command(submission_file_path)]


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
    profile, jobs = config.profile(runs[0].phase), folder.path / "jobs"
    given = parameters(config.sweep.name, runs[0], profile)
    command = f"{python(profile)} -u -m submitit.core._submit {shlex.quote(str(jobs))}"
    return _make_sbatch_string(command=command, folder=jobs, map_count=len(runs), **given)


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
            asked = Submission("slurm", "", ids, time.time(), socket.gethostname(), token)
            folder.submitted(asked)
            try:
                job = _submit(folder, config, part[0], calls, after, token)
            except UserError as error:
                if not lost(error.__cause__):
                    folder.submitted(replace(asked, runs=[]))
                raise
            folder.submitted(replace(asked, job=job, when=time.time()))
            jobs |= {run.id: f"{job}_{task}" for task, run in enumerate(part)}
            sizes[job] = len(part)
    last = Run("results", "results", "sweep", [], "")
    small = replace(config.cluster, gpus_per_node=0, memory=None, cpus_per_task=1)
    arrays = sorted({task.partition("_")[0] for task in jobs.values()}, key=int)
    after = f"afterany:{':'.join(arrays)}"
    _submit(folder, config, last, [_Results(str(folder.path))], after, uuid.uuid4().hex, small)


def lost(error: BaseException | None) -> bool:
    """Whether sbatch failed so that SLURM may have taken its jobs all the same."""
    cause = error.__cause__ if error else None
    return isinstance(cause, subprocess.CalledProcessError) and is_lost(str(error), cause.returncode)


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
    profile = profile or config.profile(like.phase)
    printed = StringIO()
    try:
        executor = Arrays(folder.path / "jobs", max_num_timeout=ENDLESS, python=python(profile))
        executor.calls = pickles(folder, token, len(calls))
        own = dict(profile.sbatch or {})
        comment = f"{own.pop('comment', '')} {token}".strip()
        given = parameters(config.sweep.name, like, replace(profile, sbatch=own or None), after)
        executor.update_parameters(**given, comment=comment)
        with redirect_stderr(printed):  # sbatch's message, which the error has
            submitted = executor.submit_array(calls)
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(explain(error, like.phase, profile)) from error
    return str(submitted[0].job_id).partition("_")[0]
