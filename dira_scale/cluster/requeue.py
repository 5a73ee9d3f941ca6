"""What a job asks of SLURM about itself: whether it is being preempted, and to be started again."""

import logging
import os
import re
import subprocess
import time

from submitit import JobEnvironment

from dira_scale.cluster import launch

logger = logging.getLogger(__name__)

SECONDS = 60  # bound on every call of SLURM
PATIENCE = 120  # seconds for its controller to come back


class NotRequeuedError(Exception):
    """SLURM does not start this job again."""


def in_grace_time(job: JobEnvironment) -> bool:
    """Whether a preemption has begun, of which SIGTERM tells as it does of a cancel.

    A job that ends by itself within the grace time is not requeued: SLURM requeues those that it has to kill.
    """
    try:
        shown = _shown(job)
    except NotRequeuedError as error:
        logger.warning("whether SLURM preempts job %s is unknown: %s", job.job_id, error)
        return False
    return bool(re.search(r"\bJobState=RUNNING\b.*\bPreemptTime=\d", shown))


def requeue(job: JobEnvironment, sick: dict[str, str]) -> None:
    """Have SLURM start this job again, not on sick nodes.

    Not where SLURM has already done so, since the node was thought dead: this would end the job's second life.

    Raises NotRequeuedError.
    """
    found = re.search(r"\bRestarts=(\d+)", _shown(job))
    if found is None or int(found[1]) != launch.restarts(os.environ):
        raise NotRequeuedError("SLURM has restarted the job")
    _scontrol("requeue", job.job_id)
    for node, why in sick.items():
        logger.warning("%s is excluded: it %s", node, why)
    if sick:  # only now: SLURM changes this of pending jobs only
        _scontrol("update", f"JobId={job.job_id}", f"ExcNodeList={','.join(sick)}")


def _shown(job: JobEnvironment) -> str:
    return _scontrol("show", "job", "--oneliner", job.job_id)


def _scontrol(*words: str) -> str:
    """What scontrol prints; a controller that is being restarted is waited for. Raises NotRequeuedError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=SECONDS, check=False)
        except FileNotFoundError as error:
            raise NotRequeuedError(
                "there is no scontrol here; a container must have it (docs/how-to/slurm.md)"
            ) from error
        except subprocess.TimeoutExpired:
            problem, waits = f"no answer within {SECONDS} s", True
        else:
            if not done.returncode:
                return done.stdout
            problem, waits = done.stderr.strip(), "contact" in done.stderr
        if not waits or time.monotonic() > deadline:
            raise NotRequeuedError(f"scontrol {' '.join(words)}: {problem}")
        time.sleep(1)
