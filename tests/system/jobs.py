"""Jobs of a sweep on a real SLURM: submits them, and waits for what comes of them."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from dira_scale.cluster.config import Cluster
from dira_scale.cluster.records import Launch, Run, Submission, SweepFolder, Try
from dira_scale.cluster.slurm import options, script

VERBS = Path(__file__).parents[1] / "cluster" / "verbs"
SECONDS = 150  # bound on every wait


@dataclass
class Jobs:
    """The sweep in ``folder`` on the cluster whose clients work in ``environment``."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def sweep(self) -> SweepFolder:
        return SweepFolder(self.folder)

    def counting(self, name: str, *words: str, **rest: Any) -> Run:
        """A run of the verb ``counting`` (tests/cluster/verbs)."""
        output = f"count/{name}/output"
        return Run("count", name, "counting", [f"run={self.folder / output}", *words], output, **rest)

    def submit(self, run: Run, limit: int = 3, **more: Any) -> str:
        """Its job's id. ``more``: options of sbatch."""
        self.sweep.add(run)
        token = uuid4().hex
        self.sweep.submitted(Submission("slurm", "", [run.id], time.time(), "", token))
        profile = Cluster(executor="slurm", hours=1 / 6, signal_delay=5, gpus_per_node=0, cpus_per_task=1, tries=limit,
                          sbatch={"requeue": True} | more)  # fmt: skip
        job = ("dira_scale.cluster.job", "slurm", str(self.folder), str(limit), token)
        file = self.folder / "jobs" / f"{token}.sh"
        file.parent.mkdir(exist_ok=True)
        file.write_text(script(self.sweep, options("test", run, profile, 1), profile, *job))
        path = f"{VERBS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        return self.client("env", f"PYTHONPATH={path}", "sbatch", "--parsable", str(file)).strip() + "_0"

    def client(self, *words: str) -> str:
        """What a command of SLURM prints."""
        environment = os.environ | self.environment
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def tries(self, run: Run) -> list[Try]:
        return self.sweep.tries(run.id)

    def step(self, run: Run) -> int:
        return int(self.sweep.status(run).get("step", 0))

    def node(self, job: str) -> str:
        """Where a job of one node runs."""
        return self.client("squeue", "-h", "-j", job, "-o", "%N").strip()

    def wait(self, happened: Callable[[], object]) -> None:
        """Bounded."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def gone(self, job: str) -> bool:
        """Whether SLURM has nothing more to do for the job."""
        states = self.client("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").split()
        return all(state in ENDED for state in states)

    def end(self, job: str) -> None:
        self.wait(lambda: self.gone(job))

    def told(self) -> str:
        """All logs, for a test that fails."""
        logs = [*self.folder.glob("jobs/*.out"), *self.folder.glob("*/*/tries/*")]
        queue = self.client("squeue", "-a", "-t", "all", "-o", "%i %T %r %N")
        return queue + "\n".join(f"== {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")


def several(nodes: int, processes: int, launcher: str = "tasks") -> Launch:
    return Launch(nodes, processes, launcher)
