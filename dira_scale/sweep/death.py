"""Why a run's processes ended, where no message tells it: killed by a signal, or which of several ended first."""

import json
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from submitit import JobEnvironment

from dira_scale.runs.exit_codes import DONE, INTERRUPTED
from dira_scale.storage.atomic import write_json
from dira_scale.sweep import launch
from dira_scale.sweep.records import Run, SweepFolder

# torchrun's summary names the process that failed first, and then its exit code: negative for a signal.
ROOT = re.compile(r"Root Cause.*?host\s*: (\S+).*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)


@dataclass(frozen=True)
class Death:
    """A process that did not finish.

    Attributes:
        when: seconds since 1970.
        message: its own last one.
    """

    rank: int
    node: str
    code: int
    when: float
    message: str = ""

    def __str__(self) -> str:
        """``rank 3 on n4 was killed by SIGKILL``."""
        if self.code < 0:
            return f"rank {self.rank} on {self.node} was {killed(self.code)}"
        return f"rank {self.rank} on {self.node} ended with exit code {self.code}: {self.message}".removesuffix(": ")


def killed(code: int) -> str:
    """Say what a negative exit code means: ``killed by SIGKILL``."""
    known = {int(number): number.name for number in signal.Signals}
    return f"killed by {known.get(-code, f'signal {-code}')}"


def record(sweep: SweepFolder, run: Run, job: JobEnvironment, restart: int, code: int) -> None:
    """Write down that this task, not the first, has ended, for the first one to read."""
    if code not in (DONE, INTERRUPTED):
        log = sweep.path / "jobs" / f"{job.job_id}_{job.global_rank}_log.out"
        message = launch.last_message(log, run.command) if code > 0 else ""
        node = job.hostnames[job.node]
        death = Death(job.global_rank, node, code, time.time(), message)
        write_json(_folder(sweep, run) / f"{job.job_id}.{restart}.rank{job.global_rank}", asdict(death))


def first(sweep: SweepFolder, run: Run, job: str, restart: int, log: Path) -> Death | None:
    """The process that ended first in a job of several processes, as far as another than the first task's is known."""
    files = _folder(sweep, run).glob(f"{job}.{restart}.rank*")
    deaths = [Death(**json.loads(file.read_text())) for file in files]
    if run.launch.launcher == "torchrun" or run.launch.processes > 1:
        roots = ROOT.findall(launch.end_of(log))
        deaths += [Death(int(rank), host, int(code), time.time()) for host, rank, code in roots[-1:]]
    return min(deaths, key=lambda death: death.when, default=None)


def reason(code: int, status: Mapping[str, object], log: Path, command: str, earliest: Death | None) -> str:
    """Why a try ended with ``code``, in one line. ``status``: what the try has written to ``status.json``."""
    step = f" at step {status['step']}" if "step" in status else ""
    by = -earliest.code if earliest and earliest.code < 0 else -code
    if by > 0:
        who = str(earliest) if earliest else killed(code)
        return f"{who}{step}" + (": often memory (raise cluster.memory)" if by == signal.SIGKILL else "")
    if earliest and earliest.rank:
        return f"{earliest}{step}"
    return str(status.get("reason") or launch.last_message(log, command))


def _folder(sweep: SweepFolder, run: Run) -> Path:
    return sweep.path / run.id / "tries"
