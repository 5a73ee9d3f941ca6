"""From a sweep's runs to their end: start what is to be started, watch, say what has become of each."""

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from dira_scale.errors import UserError
from dira_scale.machine.hardware import hardware
from dira_scale.runs.exit_codes import DONE, FAILED, INTERRUPTED
from dira_scale.sweep import queue
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.living import in_control, living
from dira_scale.sweep.local import Local
from dira_scale.sweep.records import Run, SweepFolder, is_done
from dira_scale.sweep.results import write_results
from dira_scale.sweep.slurm import submit
from dira_scale.sweep.status import AT_WORK, last_jobs, read_statuses, states
from dira_scale.sweep.usage import usage

logger = logging.getLogger(__name__)

LOOK = 10.0  # seconds between two looks at SLURM's queue
LEFT_ALONE = (*AT_WORK, "done", "cancelled")  # what a sweep that is started again does not start


def to_start(runs: Sequence[Run], now: Mapping[str, str]) -> list[Run]:
    """Return which of ``runs`` are missing, or ended without a result."""
    return [run for run in runs if now[run.id] not in LEFT_ALONE]


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
            before, problem = states(folder, runs)
            if problem:
                raise UserError(f"{problem}: the queue is unknown; nothing was started")
            start = [run for run in start if before[run.id] not in (*AT_WORK, "done")]  # others may have started some
            if slurm:
                start = _with_dependents(folder, runs, start, before)
                prepare(start)
                _submit(folder, config, start, before)
            else:
                here = living(folder)
                if elsewhere := [run.id for run in runs if before[run.id] in AT_WORK and run.id not in here]:
                    raise UserError(
                        f"{elsewhere[0]} is {before[elsewhere[0]]} elsewhere ({len(elsewhere)} runs are; sweep status "
                        "shows where): end it there, or by sweep cancel, before this machine takes the sweep over"
                    )
                prepare(start)
                chosen = {run.id for run in start} | here.keys()
                _run_here(folder, config, [run for run in runs if run.id in chosen])
        if slurm and config.detach:
            return DONE
        with _stoppable():
            return _watch(folder, runs)
    except KeyboardInterrupt:
        left = "the jobs continue; `sweep cancel` would end them" if slurm else "its runs were asked to stop"
        logger.info("interrupted; %s: run the same command again to continue", left)
        return INTERRUPTED


def _with_dependents(
    folder: SweepFolder, runs: Sequence[Run], start: Sequence[Run], now: Mapping[str, str]
) -> list[Run]:
    """``start`` and the runs that wait for one of them: their jobs depend on its old one, and are ended."""
    again, jobs = {run.id for run in start}, last_jobs(folder)
    stale = []
    for run in runs:  # needed ones first
        if now[run.id] == "waiting" and again.intersection(run.needs):
            again.add(run.id)
            stale.append(jobs[run.id][0])
    queue.cancel(stale)
    return [run for run in runs if run.id in again]


def _submit(folder: SweepFolder, config: SweepConfig, start: Sequence[Run], now: Mapping[str, str]) -> None:
    again = {run.id for run in start}
    at_work = {run_id for run_id, state in now.items() if state in AT_WORK and run_id not in again}
    queued = {run_id: job for run_id, (job, _) in last_jobs(folder).items() if run_id in at_work}
    if start:
        submit(folder, config, start, queued)
    logger.info("%d runs submitted, %d were queued or running; state: %s", len(start), len(queued), folder.path)


def _run_here(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run]) -> None:
    finished: set[str] = set()

    def done(run_id: str) -> bool:
        if run_id not in finished and is_done(folder.tries(run_id)):
            finished.add(run_id)
        return run_id in finished

    def report(run_id: str) -> None:
        tries = folder.tries(run_id)
        how = (
            "done"
            if done(run_id)
            else f"{tries[-1].reason or 'ended'} (log: {folder.log(run_id, tries[-1].number)})"
            if tries
            else "ended before it began"
        )
        logger.info("%s: %s", run_id, how)

    Local(folder, config, runs, hardware()).run(done, report)


def _watch(folder: SweepFolder, runs: Sequence[Run]) -> int:
    """Log what changes until no run is queued or running. A controller of SLURM that does not answer is waited for."""
    before: tuple[dict[str, str], str] = {}, ""
    while True:
        now, problem = states(folder, runs)
        if problem and problem != before[1]:
            logger.warning("%s; still watching", problem)
        elif now != before[0]:
            logger.info("%s", ", ".join(f"{count} {state}" for state, count in Counter(now.values()).items()))
        if not problem and not any(state in AT_WORK for state in now.values()):
            break
        before = now, problem
        time.sleep(LOOK)
    for line in write_results(folder.path, show=True).lines:
        logger.info("%s", line)
    bad = [run_id for run_id, state in now.items() if state != "done"]
    statuses = read_statuses(folder := SweepFolder(folder.path))[0]
    if used := usage(folder, {run.id: statuses[run.id] for run in runs if run.id in statuses}):
        logger.info("%s", used)
    if bad:
        for run_id in sorted(bad, key=lambda run_id: now[run_id] == "blocked")[:10]:  # those that blocked them first
            why = statuses[run_id].reason if run_id in statuses else ""
            logger.error("%s: %s", run_id, ", ".join(filter(None, (now[run_id], why))))
        cancelled = Counter(now.values())["cancelled"]
        start = "the same command starts those that failed"
        if cancelled:
            start += f"; `sweep retry runs='*'` starts the {cancelled} that were cancelled"
        logger.error("%d of %d runs are not done: %s", len(bad), len(runs), start)
        return FAILED
    return DONE


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
