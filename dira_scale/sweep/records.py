"""The records in a sweep's folder: its runs, the result of each of their tries, and the submitted jobs.

::

    sweep.yaml              the sweep as last submitted, composed
    current.json            ids of its runs; others were recorded under earlier settings
    jobs.jsonl              a row for each submission to SLURM: its runs, and the job of each
    jobs/                   submitit's files; what each job printed before and after its run
    PHASE/NAME/run.json     the run: command, what it needs, what varies
               output/      what the command writes (its run=… or out=…)
               tries/000.json 000.log    one try: where, when, how it ended; what it printed
               cancelled    exists once the user has cancelled the run

Files alone say what has happened, so that any process may take over from one that was killed. A try writes only its own
files: the first life of a requeued job cannot change what the second one says. Imports no torch: a status is quick.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.atomic import write_json
from dira_scale.train.runs.exit_codes import DONE
from dira_scale.train.runs.files import read_json, read_status


@dataclass(frozen=True)
class Launch:
    """The processes of a run: ``processes`` on each of ``nodes``."""

    nodes: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Run:
    """One command of a sweep, ``python -m dira_scale.COMMAND WORDS…``, in the folder ``PHASE/NAME``."""

    phase: str
    name: str  # the varied values, and a hash of the command's identity
    command: str
    words: list[str]  # with the key that names the output
    output: str  # folder, relative to the sweep's
    needs: list[str] = field(default_factory=list)  # ids of the runs that must be done, as it reads their output
    varied: dict[str, Any] = field(default_factory=dict)  # by which runs differ, those of the needed runs included
    launch: Launch = field(default_factory=Launch)

    @property
    def id(self) -> str:
        """``PHASE/NAME``."""
        return f"{self.phase}/{self.name}"


@dataclass
class Try:
    """One try of a run. Steps are None for commands without them."""

    number: int  # from 0 on, counted over all jobs
    cluster: str
    job: str  # SLURM's id (``12_3`` in an array) or the process id on this machine
    restart: int  # how often SLURM had restarted that job
    nodes: list[str]
    began: float  # seconds since 1970
    ended: float | None = None
    exit_code: int | None = None  # 0 done, 2 bad input, 75 interrupted after a checkpoint, otherwise failed
    step_before: int | None = None  # that it resumed from
    step: int | None = None  # the last that it made
    reason: str = ""  # why it ended, in one line


def is_done(tries: Iterable[Try]) -> bool:
    return any(attempt.exit_code == DONE for attempt in tries)


def end_of(file: Path, size: int = 65_536) -> str:
    """The last ``size`` bytes of a log; empty if there is none."""
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        return stream.read().decode(errors="replace")


class SweepFolder:
    """The records of the sweep in ``path``.

    Raises UserError on reading from a folder that holds no sweep.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def output(self, run: Run) -> Path:
        return self.path / run.output

    def add(self, run: Run) -> None:
        """Record ``run`` before it is submitted."""
        folder = self.path / run.id
        (folder / "tries").mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", asdict(run))

    def run(self, run_id: str) -> Run:
        """The run recorded under this id. Raises UserError if the record is damaged."""
        content = read_json(self.path / run_id / "run.json", dict[str, Any]())
        return Run(**content | {"launch": Launch(**content["launch"])})

    @cached_property
    def runs(self) -> dict[str, Run]:
        """All runs by id, in the order of their names."""
        ids = sorted(str(file.parent.relative_to(self.path)) for file in self.path.glob("*/*/run.json"))
        if not ids:
            path, default = self.path, Path("out/sweeps").absolute()
            typed = f"sweep={path.name}" if path.parent == default else f"folder={path}"
            started = sorted(file.parent.name for file in path.parent.glob("*/sweep.yaml"))
            others = f"{nearest(path.name, started)}; started: {', '.join(started) or 'none'}"
            raise UserError(f"{typed}: no sweep was started there{others}")
        return {run_id: self.run(run_id) for run_id in ids}

    def set_current(self, ids: Sequence[str]) -> None:
        """Record which runs the sweep has as last submitted."""
        write_json(self.path / "current.json", [*ids])

    @property
    def current(self) -> list[str]:
        """The recorded runs that the sweep has as last submitted; all, where that is not recorded."""
        path = self.path / "current.json"
        ids = read_json(path, list[str](), list[str]) if path.is_file() else self.runs
        return [run_id for run_id in ids if run_id in self.runs]

    def begin(self, run_id: str, started: Try) -> Try:
        """Take the next number for a try that begins: by creating its file, which only one process can."""
        folder = self.path / run_id / "tries"
        started.number = max((int(file.stem) for file in folder.glob("*.json")), default=-1) + 1
        while True:
            try:
                (folder / f"{started.number:03d}.json").touch(exist_ok=False)
            except FileExistsError:
                started.number += 1
                continue
            self.write(run_id, started)
            return started

    def write(self, run_id: str, attempt: Try) -> None:
        """Record what a try has come to."""
        write_json(self.path / run_id / "tries" / f"{attempt.number:03d}.json", asdict(attempt))

    def tries(self, run_id: str) -> list[Try]:
        """All tries of a run, oldest first. Raises UserError if a record is damaged."""
        files = sorted((self.path / run_id / "tries").glob("*.json"))
        return [Try(**read_json(file, dict[str, Any]())) for file in files if file.stat().st_size]

    def log(self, run_id: str, number: int) -> Path:
        """The file with what a try printed."""
        return self.path / run_id / "tries" / f"{number:03d}.log"

    def status(self, run: Run) -> dict[str, Any]:
        """``status.json`` of a run that trains; empty for other commands, and before it is written."""
        return read_status(self.output(run))

    def cancel(self, run_id: str) -> None:
        """Mark a run as cancelled: no try of it begins any more, and no job of it is requeued."""
        (self.path / run_id / "cancelled").touch()

    def is_cancelled(self, run_id: str) -> bool:
        return (self.path / run_id / "cancelled").exists()

    def revive(self, run_id: str) -> None:
        """Let a cancelled run be submitted again."""
        (self.path / run_id / "cancelled").unlink(missing_ok=True)

    def submitted(self, jobs: Mapping[str, str]) -> None:
        """Record the jobs that SLURM has taken, by the ids of their runs. A job that is not recorded starts nothing."""
        with (self.path / "jobs.jsonl").open("a") as file:
            file.write(f"\n{json.dumps(dict(jobs))}\n")  # a row of its own even after one that was cut

    @property
    def jobs(self) -> dict[str, list[str]]:
        """The jobs of each run that was submitted, oldest first. A row that was cut as it was written is left out."""
        path = self.path / "jobs.jsonl"
        jobs: dict[str, list[str]] = {}
        for line in path.read_text().splitlines() if path.is_file() else []:
            for run_id, job in json.loads(line).items() if line.endswith("}") else ():
                jobs.setdefault(run_id, []).append(job)
        return jobs
