"""Chooses runs of a sweep by their names, and shows what they printed last."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from dira_scale.errors import UserError, nearest
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.status import RunStatus, read_statuses

TAIL = 262_144  # bytes at the end of a log in which its last lines are looked for
FAILED = ("failed", "lost")


def choose(folder: SweepFolder, patterns: Sequence[str]) -> list[str]:
    """Ids of the runs whose id or name is one of ``patterns``, or matches it: ``*``, ``?`` and ``[…]``.

    Raises:
        UserError: a pattern that matches none.
    """
    chosen: list[str] = []
    for pattern in patterns:
        ids = [run_id for run_id, run in folder.runs.items() if _is(run_id, pattern) or _is(run.name, pattern)]
        if not ids:
            known = [*folder.runs, *(run.name for run in folder.runs.values())]
            raise UserError(f"{pattern}: no run of {folder.path} has this name{nearest(pattern, known)}")
        chosen += ids
    return list(dict.fromkeys(chosen))


def show_logs(folder: SweepFolder, patterns: Sequence[str], lines: int) -> None:
    """Print the last ``lines`` of the last try of each chosen run; by default, of those that failed or are lost.

    Raises UserError if there is no sweep in ``folder``, or a pattern matches no run.
    """
    statuses = read_statuses(folder)[0]
    failed = [run_id for run_id, status in statuses.items() if status.state in FAILED]
    chosen = choose(folder, patterns) if patterns else failed
    if not chosen:
        print("no run has failed; name runs to see their logs")
    for run_id in chosen:
        status = statuses[run_id]
        print(f"==> {run_id}: {status.state}{f', {status.reason}' if status.reason else ''}")
        files = _files(folder, status)
        for file in files:
            print(f"    {file}\n")
            print("\n".join(last_lines(file, lines)) + "\n")
        if not files:
            print("    nothing printed yet\n")


def last_lines(file: Path, count: int) -> list[str]:
    """The last ``count`` lines, of which a progress bar's states are one."""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
        text = stream.read().decode(errors="replace")
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")][-count:]


def _files(folder: SweepFolder, status: RunStatus) -> list[Path]:
    """The log of the last try; without one, what its job printed before it could begin."""
    if status.tries:
        log = folder.log(status.run.id, status.tries[-1].number)
        return [log] if log.is_file() else []
    return sorted((folder.path / "jobs").glob(f"{status.job}_*log*")) if status.job else []


def _is(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)
