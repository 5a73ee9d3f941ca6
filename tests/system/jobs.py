"""Jobs of a sweep on a real SLURM: submits :class:`dira_scale.sweep.job.Job` and waits for what comes of it."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from dira_scale.sweep.job import Job
from dira_scale.sweep.records import Run, SweepFolder, Try

COMMANDS = Path(__file__).parents[1] / "sweep" / "commands"
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
        """A run of the command ``counting`` (tests/sweep/commands)."""
        output = f"count/{name}/output"
        return Run("count", name, "counting", [f"run={self.folder / output}", *words], output, **rest)

    def submit(self, run: Run, limit: int = 3, **parameters: Any) -> str:
        """Its job's id."""
        self.sweep.add(run)
        executor = submitit.SlurmExecutor(self.folder / "jobs")
        given = {"time": 10, "signal_delay_s": 5, "nodes": run.launch.nodes, "stderr_to_stdout": True}
        given |= {"ntasks_per_node": run.launch.processes, "cpus_per_task": 1}
        executor.update_parameters(**given | {"additional_parameters": {"requeue": True}} | parameters)
        path = f"{COMMANDS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        with submitit.helpers.environment_variables(**self.environment, PYTHONPATH=path):
            job = str(executor.submit(Job(str(self.folder), run.id, limit)).job_id)
        self.sweep.submitted({run.id: job})
        return job

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
            assert time.monotonic() < deadline, self.reported()
            time.sleep(0.1)

    def gone(self, job: str) -> bool:
        """Whether SLURM has nothing more to do for the job."""
        states = self.client("squeue", "-h", "-j", job, "-t", "all", "-o", "%T").split()
        return all(state in ENDED for state in states)

    def end(self, job: str) -> None:
        self.wait(lambda: self.gone(job))

    def reported(self) -> str:
        """All logs, for a test that fails."""
        logs = [*self.folder.glob("jobs/*.out"), *filter(Path.is_file, self.folder.glob("*/*/tries/**/*"))]
        queue = self.client("squeue", "-a", "-t", "all", "-o", "%i %T %r %N")
        return queue + "\n".join(f"== {log}\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
