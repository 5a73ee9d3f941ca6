"""Cancels runs of a sweep, and makes failed ones ready to be submitted again."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from dira_scale.errors import UserError
from dira_scale.sweep import queue
from dira_scale.sweep.living import is_here, living
from dira_scale.sweep.logs import choose
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.status import AT_WORK, RunStatus, present, read_statuses

RETRIED = ("failed", "lost")


def cancel(folder: SweepFolder, patterns: Sequence[str]) -> list[str]:
    """Cancel the chosen runs that are not done, or else all that could still run; returns their ids.

    What has failed stays so unless it is chosen: the next sweep, and ``retry``, start it again. A run that is running
    writes a checkpoint first. All are marked before any job ends, so none is requeued.

    Raises:
        UserError: no such sweep or run; SLURM does not answer; a run's process is on another machine. The runs are
            marked even so, and no new try of them begins.
    """
    statuses = read_statuses(folder)[0]
    ended = ("done",) if patterns else ("done", *RETRIED, "blocked")
    chosen = [status for status in _chosen(folder, statuses, patterns) if status.state not in ended]
    for status in chosen:
        folder.cancel(status.run.id)
    submissions = {run_id: row for row in folder.submissions for run_id in row.runs}
    active = [status for status in chosen if status.job and status.state in (*AT_WORK, "ended", "cancelled")]
    queue.cancel([status.job for status in active if submissions[status.run.id].cluster == "slurm"])
    here = living(folder)
    for status in active:
        submission = submissions[status.run.id]
        if status.run.id in here:
            with suppress(psutil.NoSuchProcess):
                here[status.run.id].send_signal(signal.SIGTERM)
        elif submission.cluster == "local" and not is_here(submission) and status.state == "running":
            where = f"process {status.job} on {submission.host}"
            raise UserError(f"{status.run.id} is marked as cancelled, but {where} is out of reach: end it there")
    return [status.run.id for status in chosen]


def retry(folder: SweepFolder, statuses: Mapping[str, RunStatus], patterns: Sequence[str]) -> list[str]:
    """Ids of the runs to submit again, those that they need first: of the chosen ones, or all, that failed or are lost.

    Chosen by name or pattern, cancelled ones too. With them, the runs that they block.

    Raises:
        UserError: no such sweep or run, or one whose name is given has neither failed nor been lost or cancelled.
    """
    chosen = _chosen(folder, statuses, patterns) if patterns else list(present(folder, statuses).values())
    again = [status for status in chosen if status.state in (*RETRIED, *(("cancelled",) if patterns else ()))]
    for status in chosen:
        run = status.run
        if status not in again and {run.id, run.name} & set(patterns):
            raise UserError(f"{run.id} is {status.state}; retry is for runs that failed, are lost or were cancelled")
    ids = {status.run.id for status in again}
    for run_id, status in statuses.items():  # needed runs come first
        if status.state == "blocked" and ids.intersection(status.run.needs):
            ids.add(run_id)
    return [run_id for run_id in statuses if run_id in ids]


def _chosen(folder: SweepFolder, statuses: Mapping[str, RunStatus], patterns: Sequence[str]) -> list[RunStatus]:
    return [statuses[run_id] for run_id in (choose(folder, patterns) if patterns else statuses)]
