"""``sweep status``, ``logs``, ``cancel``, ``retry``, ``results``: each works on the records of a sweep's folder."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from etils.epy import lazy_imports
from omegaconf import DictConfig

from dira_scale.base.errors import UserError, nearest
from dira_scale.base.machine.console import Console
from dira_scale.sweep import queue
from dira_scale.sweep.records import Run, SweepFolder, end_of
from dira_scale.sweep.status import RunStatus, known_statuses, overview, present, read_statuses, show
from dira_scale.train.runs.exit_codes import DONE, FAILED

with lazy_imports():
    from dira_scale.sweep import results as sweep_results
    from dira_scale.sweep import start, watch

RETRIED = ("failed", "lost")
TAIL = 262_144  # bytes at the end of a log in which its last lines are looked for


def status(cfg: DictConfig) -> int:
    """State, step, loss, speed, time to go, node, tries; watch=5: every 5 seconds; json=true: for programs."""
    folder = SweepFolder(Path(cfg.folder))
    if cfg.json:
        content = overview(folder)[0]
        print(json.dumps(content, indent=2))
    else:
        content = show(folder, Console(), cfg.watch)
    return FAILED if any(content["counts"][state] for state in ("failed", "blocked", "lost")) else DONE


def logs(cfg: DictConfig) -> int:
    """The last lines of what runs printed; of those that failed unless runs=… names others."""
    show_logs(SweepFolder(Path(cfg.folder)), _patterns(cfg), cfg.lines)
    return DONE


def cancel(cfg: DictConfig) -> int:
    """End runs, after a checkpoint; all that could still run unless runs=… names some."""
    ids = cancel_runs(SweepFolder(Path(cfg.folder)), _patterns(cfg))
    print("\n".join([*(f"cancelled: {run_id}" for run_id in ids), f"{len(ids)} runs cancelled"]))
    return DONE


def retry(cfg: DictConfig) -> int:
    """Start those again that failed or were lost, and what they kept from starting; or the cancelled ones in runs=…."""
    folder = SweepFolder(Path(cfg.folder))
    config = start.recorded(folder)
    config.detach = cfg.detach and config.cluster.executor == "slurm"
    statuses = known_statuses(folder)
    chosen = runs_to_retry(folder, statuses, _patterns(cfg))
    if not chosen:
        print("nothing to retry: no run has failed or was lost; runs=… starts cancelled ones")
        return DONE
    ids = {*folder.current, *chosen}
    runs = [status.run for run_id, status in statuses.items() if run_id in ids]  # needed ones first

    def revive(started: Sequence[Run]) -> None:
        for run in started:
            folder.revive(run.id)

    return watch.carry_out(folder, config, runs, [run for run in runs if run.id in chosen], revive)


def results(cfg: DictConfig) -> int:
    """Write all final figures of the runs that are done, as .parquet and .md, and show their tables."""
    print(sweep_results.write_results(Path(cfg.folder)).text)
    return DONE


def _patterns(cfg: DictConfig) -> list[str]:
    return [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs or [])


def cancel_runs(folder: SweepFolder, patterns: Sequence[str]) -> list[str]:
    """Cancel the chosen runs that are not done, or else all that could still run; returns their ids.

    What has failed stays so unless it is chosen: the next sweep, and ``retry``, start it again. A run that is running
    writes a checkpoint first. All are marked before any job ends, so none is requeued; on a machine, the sweep's own
    process ends what is marked.

    Raises:
        UserError: no such sweep or run; SLURM does not answer. The runs are marked even so, and no new try of them
            begins.
    """
    statuses = read_statuses(folder)[0]
    ended = ("done",) if patterns else ("done", *RETRIED, "blocked")
    ids = choose(folder, patterns) if patterns else statuses
    chosen = [statuses[run_id] for run_id in ids if statuses[run_id].state not in ended]
    for status in chosen:
        folder.cancel(status.run.id)
    jobs = folder.jobs
    queue.cancel([jobs[status.run.id][-1] for status in chosen if status.run.id in jobs])
    return [status.run.id for status in chosen]


def runs_to_retry(folder: SweepFolder, statuses: Mapping[str, RunStatus], patterns: Sequence[str]) -> list[str]:
    """Ids of the runs to submit again, those that they need first: of the chosen ones, or all, that failed or are lost.

    Chosen by name or pattern, cancelled ones too. With them, the runs that they block.

    Raises:
        UserError: no such sweep or run, or one whose name is given has neither failed nor been lost or cancelled.
    """
    chosen = [statuses[run_id] for run_id in (choose(folder, patterns) if patterns else present(folder, statuses))]
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


def choose(folder: SweepFolder, patterns: Sequence[str]) -> list[str]:
    """Ids of the runs whose id or name is one of ``patterns``, or matches it: ``*``, ``?`` and ``[…]``.

    Raises:
        UserError: a pattern that matches none.
    """
    chosen: list[str] = []
    for pattern in patterns:
        ids = [
            run_id
            for run_id, run in folder.runs.items()
            if pattern in (run_id, run.name) or fnmatchcase(run_id, pattern) or fnmatchcase(run.name, pattern)
        ]
        if not ids:
            names = [*folder.runs, *(run.name for run in folder.runs.values())]
            raise UserError(f"{pattern}: no run of {folder.path} has this name{nearest(pattern, names)}")
        chosen += ids
    return list(dict.fromkeys(chosen))


def show_logs(folder: SweepFolder, patterns: Sequence[str], lines: int) -> None:
    """Print the last ``lines`` of the last try of each chosen run; by default, of those that failed or are lost.

    Raises UserError if there is no sweep in ``folder``, or a pattern matches no run.
    """
    statuses = read_statuses(folder)[0]
    failed = [run_id for run_id, status in statuses.items() if status.state in RETRIED]
    chosen = choose(folder, patterns) if patterns else failed
    if not chosen:
        print("no run has failed; name runs to see their logs")
    for run_id in chosen:
        status = statuses[run_id]
        print(f"==> {run_id}: {status.state}{f', {status.reason}' if status.reason else ''}")
        if status.tries:
            log = folder.log(run_id, status.tries[-1].number)
            files = [log] if log.is_file() else []
        else:  # what its job printed before it could begin
            files = sorted((folder.path / "jobs").glob(f"{status.job}_*log*")) if status.job else []
        for file in files:
            print(f"    {file}\n")
            print("\n".join(last_lines(file, lines)) + "\n")
        if not files:
            print("    nothing printed yet\n")


def last_lines(file: Path, count: int) -> list[str]:
    """The last ``count`` lines, of which a progress bar's states are one."""
    text = end_of(file, TAIL).rstrip("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")][-count:]
