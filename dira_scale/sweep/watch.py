"""From a sweep's runs to their end: start what is to be started, watch, say what has become of each."""

import fcntl
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from dira_scale.base.errors import UserError
from dira_scale.base.machine.hardware import hardware
from dira_scale.sweep import queue
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.local import run_here
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.results import write_results
from dira_scale.sweep.slurm import submit
from dira_scale.sweep.status import AT_WORK, RunStatus, hours_used, known_statuses, read_statuses
from dira_scale.train.runs.exit_codes import DONE, FAILED, INTERRUPTED

logger = logging.getLogger(__name__)

LOOK = 10.0  # seconds between two looks at SLURM's queue


def carry_out(
    folder: SweepFolder,
    config: SweepConfig,
    runs: Sequence[Run],
    start: Sequence[Run],
    prepare: Callable[[Sequence[Run]], None],
) -> int:
    """Start the runs ``start`` and watch all of ``runs``, those that are needed first, until they end; the exit code.

    Args:
        prepare: called with those that are about to be started, once no other process can start them.

    Raises:
        UserError: another process is at it, SLURM refuses a job, or its queue is not known.
    """
    slurm = config.cluster.executor == "slurm"
    try:
        with in_control(folder), _stoppable():
            before = known_statuses(folder)
            at_work = {run.id: before[run.id] for run in runs if run.id in before and before[run.id].state in AT_WORK}
            done = {run_id for run_id, status in before.items() if status.state == "done"}
            start = [run for run in start if run.id not in {*at_work, *done}]  # others may have started some
            if slurm:
                start = _with_dependents(runs, start, at_work)
                prepare(start)
                again = {run.id for run in start}
                queued = {run_id: status.job for run_id, status in at_work.items() if run_id not in again}
                if start:
                    submit(folder, config, start, queued)
                counts = len(start), len(queued)
                logger.info("%d runs submitted, %d were queued or running; state: %s", *counts, folder.path)
            else:
                for status in at_work.values():
                    raise UserError(
                        f"{status.run.id} is {status.state} already, in job {status.job} (sweep status): let it end, "
                        "or end it by sweep cancel, before this machine takes the sweep over"
                    )
                prepare(start)
                run_here(folder, config, start, hardware())
        if slurm and config.detach:
            return DONE
        with _stoppable():
            return _watch(folder, runs)
    except KeyboardInterrupt:
        left = "the jobs continue; `sweep cancel` would end them" if slurm else "its runs were asked to stop"
        logger.info("interrupted; %s: run the same command again to continue", left)
        return INTERRUPTED


def _with_dependents(runs: Sequence[Run], start: Sequence[Run], at_work: Mapping[str, RunStatus]) -> list[Run]:
    """``start`` and the runs that wait for one of them: their jobs depend on its old one, and are ended."""
    again = {run.id for run in start}
    stale = []
    for run in runs:  # needed ones first
        if run.id in at_work and at_work[run.id].state == "waiting" and again.intersection(run.needs):
            again.add(run.id)
            stale.append(at_work[run.id].job)
    queue.cancel(stale)
    return [run for run in runs if run.id in again]


def _watch(folder: SweepFolder, runs: Sequence[Run]) -> int:
    """Log what changes until no run is queued or running. A controller of SLURM that does not answer is waited for."""
    counts, problem = Counter[str](), ""
    while True:
        everything, answer = read_statuses(SweepFolder(folder.path))
        statuses = {run.id: everything[run.id] for run in runs}
        if not answer.complete and answer.problem != problem:
            logger.warning("%s; still watching", answer.problem)
        problem = answer.problem
        if (now := Counter(status.state for status in statuses.values())) != counts:
            logger.info("%s", ", ".join(f"{count} {state}" for state, count in now.items()))
        counts = now
        if answer.complete and not any(counts[state] for state in AT_WORK):
            break
        time.sleep(LOOK)
    print(write_results(folder.path).text)
    if used := hours_used(folder, statuses):
        logger.info("%s", used)
    bad = [status for status in statuses.values() if status.state != "done"]
    for status in sorted(bad, key=lambda status: status.state == "blocked")[:10]:  # those that blocked them first
        logger.error("%s: %s", status.run.id, ", ".join(filter(None, (status.state, status.reason))))
    if bad:
        start = "the same command starts those that failed; `sweep retry runs=…` cancelled ones"
        logger.error("%d of %d runs are not done: %s", len(bad), len(runs), start)
    return FAILED if bad else DONE


@contextmanager
def in_control(folder: SweepFolder) -> Iterator[None]:
    """No other process starts runs of this sweep meanwhile. Raises UserError if one does already."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(f"folder={folder.path}: {file.read()} is already running this sweep") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and a closed terminal are what Ctrl-C is."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
