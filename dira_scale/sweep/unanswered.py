"""Arrays whose sbatch was interrupted, or whose reply was lost: SLURM may have taken them all the same.

Each submission has a token, which is recorded before sbatch is called, and is the last word of the jobs' comment.
"""

import time
from contextlib import suppress
from dataclasses import replace

from dira_scale.errors import UserError
from dira_scale.sweep.executors import move, pickles
from dira_scale.sweep.queue import run_slurm
from dira_scale.sweep.records import Submission, SweepFolder

SETTLED = 20  # seconds after which SLURM has taken a submission or never will; its own commands give up after 10


def find(folder: SweepFolder) -> str:
    """Look for the submissions without an answer in SLURM's queue, and record those that it has; what is not known."""
    if not (unanswered := folder.unanswered):
        return ""
    try:
        jobs = _jobs((folder.path / "submissions.jsonl").stat().st_uid)
    except UserError as error:
        return f"{error}; whether it accepted an earlier submission is unknown"
    problem = ""
    for submission in unanswered:
        age = time.time() - submission.when
        if submission.token in jobs:
            move(pickles(folder.path / "jobs", submission.token, len(submission.runs)), jobs[submission.token])
            _record(folder, replace(submission, job=jobs[submission.token]))
        elif age > SETTLED:
            _record(folder, replace(submission, runs=[]))
        else:
            problem = (
                f"sbatch was called {age:.0f} s ago, and did not answer: SLURM may still accept these "
                f"jobs; known in {SETTLED - age:.0f} s"
            )
    return problem


def _jobs(user: int) -> dict[str, str]:
    """The numbers of this user's arrays by the last words of their comments."""
    rows = run_slurm(["squeue", "--noheader", f"--user={user}", "--states=all", "--format=%F|%k"]).splitlines()
    parts = (row.partition("|") for row in rows)
    return {comment.split()[-1]: job for job, _, comment in parts if comment.split()}


def _record(folder: SweepFolder, submission: Submission) -> None:
    with suppress(PermissionError):  # somebody who may only look
        folder.submitted(submission)
