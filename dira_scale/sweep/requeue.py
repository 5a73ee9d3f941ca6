"""What a job asks of SLURM about itself: whether it is being preempted, and to be started again."""

import logging
import re
import time

from submitit import JobEnvironment

from dira_scale.errors import UserError
from dira_scale.sweep.launch import restarts
from dira_scale.sweep.queue import run_slurm

logger = logging.getLogger(__name__)

PATIENCE = 120  # seconds for SLURM's controller to come back
TRANSIENT = ("contact", "has not answered", "by signal")  # a requeue's SIGTERM reaches scontrol, too


def in_grace_time(job: JobEnvironment) -> bool:
    """Whether a preemption has begun, of which SIGTERM tells as it does of a cancel.

    A job that ends by itself within the grace time is not requeued: SLURM requeues those that it has to kill.
    """
    try:
        shown = _shown(job)
    except UserError as error:
        logger.warning("whether SLURM preempts job %s is unknown: %s", job.job_id, error)
        return False
    return bool(re.search(r"\bJobState=RUNNING\b.*\bPreemptTime=\d", shown))


def requeue(job: JobEnvironment) -> None:
    """Have SLURM start this job again.

    Not where SLURM has already done so, since the node was thought dead: this would end the job's second life.

    Raises UserError if SLURM does not start it again.
    """
    match = re.search(r"\bRestarts=(\d+)", _shown(job))
    if match is None or int(match[1]) != restarts():
        raise UserError("SLURM has restarted the job")
    _scontrol("requeue", job.job_id)


def _shown(job: JobEnvironment) -> str:
    return _scontrol("show", "job", "--oneliner", job.job_id)


def _scontrol(*words: str) -> str:
    """What scontrol prints; a controller that is being restarted is waited for. Raises UserError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return run_slurm(["scontrol", *words])
        except UserError as error:
            if not any(text in str(error) for text in TRANSIENT) or time.monotonic() > deadline:
                raise
        time.sleep(1)
