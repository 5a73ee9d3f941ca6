"""Arrays whose sbatch was interrupted, or whose reply was lost: SLURM may have taken them all the same.

Each submission has a token, which is recorded before sbatch is called, and is the last word of the jobs' comment.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dira_scale.cluster.queue import said
from dira_scale.cluster.records import Submission, SweepFolder
from dira_scale.errors import UserError

SETTLED = 20  # seconds after which SLURM has taken a submission or never will; its own commands give up after 10
LOST = ("timed out", "zero bytes")  # in sbatch's message: it has not heard what became of its request


def is_lost(message: str, code: int) -> bool:
    """Whether sbatch ended with ``code`` and ``message`` without an answer: timeout(1) ended it (124), or a signal."""
    return code >= 124 or any(word in message.lower() for word in LOST)


def pickles(folder: SweepFolder, token: str, count: int) -> list[Path]:
    """Where the calls of an array are until its number is known."""
    return [folder.path / "jobs" / f"{token}_{n}.pkl" for n in range(count)]


def find(folder: SweepFolder) -> str:
    """Look for the submissions without an answer in SLURM's queue, and record those that it has; what is not known."""
    if not (asked := folder.unanswered):
        return ""
    try:
        jobs = _jobs((folder.path / "submissions.jsonl").stat().st_uid)
    except UserError as error:
        return f"{error}; what it has taken of an earlier submission is not known"
    problem = ""
    for one in asked:
        age = time.time() - one.when
        if one.token in jobs:
            _move(pickles(folder, one.token, len(one.runs)), jobs[one.token])
            _record(folder, replace(one, job=jobs[one.token]))
        elif age > SETTLED:
            _record(folder, replace(one, runs=[]))
        else:
            problem = (
                f"sbatch was called {age:.0f} s ago, and its answer is not known: SLURM may still take these "
                f"jobs, which is certain in {SETTLED - age:.0f} s"
            )
    return problem


def _jobs(user: int) -> dict[str, str]:
    """The numbers of this user's arrays by the last words of their comments."""
    rows = said(["squeue", "--noheader", f"--user={user}", "--states=all", "--format=%F|%k"]).splitlines()
    parts = (row.partition("|") for row in rows)
    return {comment.split()[-1]: job for job, _, comment in parts if comment.split()}


def _move(calls: Sequence[Path], job: str) -> None:
    """Where the jobs look for their calls."""
    for task, file in enumerate(calls):
        with suppress(FileNotFoundError):  # it was moved before the interruption
            file.rename(file.with_name(f"{job}_{task}_submitted.pkl"))


def _record(folder: SweepFolder, submission: Submission) -> None:
    with suppress(PermissionError):  # somebody who may only look
        folder.submitted(submission)
