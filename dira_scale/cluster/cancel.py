"""Cancels runs of a sweep, and makes failed ones ready to be submitted again."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from dira_scale.cluster import queue
from dira_scale.cluster.living import is_here, living
from dira_scale.cluster.logs import choose
from dira_scale.cluster.records import SweepFolder
from dira_scale.cluster.status import AT_WORK, Standing, present, standings
from dira_scale.errors import UserError

RETRIED = ("failed", "lost")


def cancel(folder: SweepFolder, patterns: Sequence[str]) -> list[str]:
    """Cancel the chosen runs that are not done, or else all that could still run; returns their ids.

    What has failed stays so unless it is chosen: the next sweep, and ``retry``, start it again. A run that is running
    writes a checkpoint first. All are marked before any job ends, so none is requeued.

    Raises:
        UserError: no such sweep or run; SLURM does not answer; a run's process is on another machine. The runs are
            marked even so, and no new try of them begins.
    """
    found = standings(folder)[0]
    ended = ("done",) if patterns else ("done", *RETRIED, "blocked")
    chosen = [one for one in _chosen(folder, found, patterns) if one.state not in ended]
    for one in chosen:
        folder.cancel(one.run.id)
    submissions = {run_id: row for row in folder.submissions for run_id in row.runs}
    active = [one for one in chosen if one.job and one.state in (*AT_WORK, "ended", "cancelled")]
    queue.cancel([one.job for one in active if submissions[one.run.id].cluster == "slurm"])
    here = living(folder)
    for one in active:
        submission = submissions[one.run.id]
        if one.run.id in here:
            with suppress(psutil.NoSuchProcess):
                here[one.run.id].send_signal(signal.SIGTERM)
        elif submission.cluster == "local" and not is_here(submission) and one.state == "running":
            where = f"process {one.job} on {submission.host}"
            raise UserError(f"{one.run.id} is marked as cancelled, but {where} cannot be ended from here: end it there")
    return [one.run.id for one in chosen]


def retry(folder: SweepFolder, found: Mapping[str, Standing], patterns: Sequence[str]) -> list[str]:
    """Ids of the runs to submit again, those that they need first: of the chosen ones, or all, that failed or are lost.

    Chosen by name or pattern, cancelled ones too. With them, the runs that they block.

    Raises:
        UserError: no such sweep or run, or one whose name is given has neither failed nor been lost or cancelled.
    """
    chosen = _chosen(folder, found, patterns) if patterns else list(present(folder, found).values())
    again = [one for one in chosen if one.state in (*RETRIED, *(("cancelled",) if patterns else ()))]
    for one in chosen:
        if one not in again and {one.run.id, one.run.name} & set(patterns):
            raise UserError(f"{one.run.id} is {one.state}; retry is for runs that failed, are lost or were cancelled")
    ids = {one.run.id for one in again}
    for run_id, one in found.items():  # needed runs come first
        if one.state == "blocked" and ids.intersection(one.run.needs):
            ids.add(run_id)
    return [run_id for run_id in found if run_id in ids]


def _chosen(folder: SweepFolder, found: Mapping[str, Standing], patterns: Sequence[str]) -> list[Standing]:
    return [found[run_id] for run_id in (choose(folder, patterns) if patterns else found)]
