"""What a job asks of SLURM about itself: whether it is being preempted, and to be started again."""

import logging
import re
import subprocess
import time

from dira_scale.cluster.task import Task, restarts

logger = logging.getLogger(__name__)

SECONDS = 60  # bound on every call of SLURM
PATIENCE = 120  # seconds for its controller to come back


class NotRequeuedError(Exception):
    """SLURM does not start this job again."""


def in_grace_time(task: Task) -> bool:
    """Whether a preemption has begun, of which SIGTERM tells as it does of a cancel.

    A job that ends by itself within the grace time is not requeued: SLURM requeues those that it has to kill.
    """
    try:
        shown = _shown(task)
    except NotRequeuedError as error:
        logger.warning("whether SLURM preempts job %s is unknown: %s", task.job, error)
        return False
    return bool(re.search(r"\bJobState=RUNNING\b.*\bPreemptTime=\d", shown))


def requeue(task: Task, sick: dict[str, str]) -> None:
    """Have SLURM start this job again, not on sick nodes.

    Not where SLURM has already done so, since the node was thought dead: this would end the job's second life.

    Raises NotRequeuedError.
    """
    match = re.search(r"\bRestarts=(\d+)", _shown(task))
    if match is None or int(match[1]) != restarts():
        raise NotRequeuedError("SLURM has restarted the job")
    _scontrol("requeue", task.job)
    for node, why in sick.items():
        logger.warning("%s is excluded: %s", node, why)
    if sick:  # only now: SLURM changes this of pending jobs only
        _scontrol("update", f"JobId={task.job}", f"ExcNodeList={','.join(sick)}")


def _shown(task: Task) -> str:
    return _scontrol("show", "job", "--oneliner", task.job)


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
            # A requeue's SIGTERM reaches this command, too.
            problem, waits = done.stderr.strip(), "contact" in done.stderr or done.returncode < 0
        if not waits or time.monotonic() > deadline:
            raise NotRequeuedError(f"scontrol {' '.join(words)}: {problem}")
        time.sleep(1)
