"""submitit's executors as sweeps need them, and the only file that reaches into submitit's private parts.

The public part does not do three things. A job of one call is no array, while a run is always a task of one: records,
cancels and requeues know one kind of id. sbatch's answer is waited for without a bound. And where that answer is lost,
nobody knows which files belong to the jobs that SLURM may have taken: here their names have the submission's token.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths
from submitit.local.local import LocalExecutor, LocalJob
from submitit.slurm.slurm import SlurmExecutor, SlurmJob, _make_sbatch_string

from dira_scale.sweep import queue

ENDLESS = 10**9  # requeues that submitit allows: our own rule (cluster.tries) decides
YEAR = 366 * 24 * 60 * 60  # seconds; submitit would end a local job after two minutes
LOST = ("timed out", "zero bytes")  # in sbatch's message: it does not know what became of its request
SUBMISSION_ERRORS = (FailedJobError, FailedSubmissionError)


class Arrays(SlurmExecutor):
    """Always submits an array, of one job too, and does not wait for ever.

    Args:
        python: what starts Python in a job, as a shell reads it.
        calls: files of the array's calls until it has a number; kept where it is not known whether it has one.
    """

    def __init__(self, folder: Path, python: str, calls: Sequence[Path]) -> None:
        super().__init__(folder, max_num_timeout=ENDLESS, python=python)
        self.calls = calls

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[Any]:
        for delayed, path in zip(delayed_submissions, self.calls, strict=True):
            delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
            delayed.dump(path)
        self.parameters["map_count"] = len(self.calls)
        try:
            array = self._submit_command(self._submitit_command_str).job_id
        except Exception as error:
            if not is_lost(error):
                for path in self.calls:
                    path.unlink()
            raise
        move(self.calls, array)
        return [SlurmJob(self.folder, f"{array}_{task}", [0]) for task in range(len(self.calls))]

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["timeout", str(queue.SECONDS), *super()._make_submission_command(submission_file_path)]


class Sessions(LocalExecutor):
    """Starts jobs here which Ctrl-C in a terminal does not reach: the controlling process tells them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(folder)
        self.environment = environment

    def _submit_command(self, command: str) -> Any:
        given = {
            "NTASKS": "1", "NODEID": "0", "JOB_NUM_NODES": "1", "COMMAND": command, "WITH_SHELL": "",
            "TIMEOUT_S": str(YEAR), "SIGNAL_DELAY_S": "0",
        }  # fmt: skip
        environment = {f"SUBMITIT_LOCAL_{name}": value for name, value in given.items()}
        environment |= {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_STDERR_TO_STDOUT": "1", **self.environment}
        process = subprocess.Popen(
            [sys.executable, "-m", "submitit.local._local", str(self.folder)], env=os.environ | environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return LocalJob(self.folder, str(process.pid), [0], process=process)


def batch_script(folder: Path, python: str, count: int, parameters: Mapping[str, Any]) -> str:
    """The text that sbatch is given for an array of ``count`` jobs."""
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return str(_make_sbatch_string(command=command, folder=folder, map_count=count, **parameters))


def pickles(folder: Path, token: str, count: int) -> list[Path]:
    """Where the calls of an array are until its number is known."""
    return [folder / f"{token}_{n}.pkl" for n in range(count)]


def move(calls: Sequence[Path], array: str) -> None:
    """Move an array's calls to where its jobs look for them."""
    for task, path in enumerate(calls):
        with suppress(FileNotFoundError):  # a status has found the array first; it was moved before an interruption
            path.rename(JobPaths(path.parent, f"{array}_{task}").submitted_pickle)


def is_lost(error: BaseException | None) -> bool:
    """Whether sbatch ended without an answer, so that SLURM may have taken its jobs all the same.

    timeout(1) ended it (124), or a signal, or its request was lost.
    """
    cause = error.__cause__ if error else None
    if not isinstance(cause, subprocess.CalledProcessError):
        return False
    return not 0 <= cause.returncode < 124 or any(text in str(error).lower() for text in LOST)


def explain(error: Exception) -> str:
    """Say in sbatch's words why it refuses jobs."""
    cause = error.__cause__
    if isinstance(cause, subprocess.CalledProcessError) and cause.returncode == 124:
        return f"sbatch has not answered within {queue.SECONDS} s; is SLURM's controller up (`sinfo`)?"
    words = " ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines())
    return f"sbatch failed: {words or cause}"
