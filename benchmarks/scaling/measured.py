"""Measured: steps of pretraining by several processes of this machine, as one job and separately.

python -m benchmarks.scaling.measured ARGUMENTS     what `bench scaling` starts: `pretrain`, whose first step waits
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.distributed.processes import leave

IMAGES = 16  # of a process
WARM = 3  # steps not counted
STAGE = "dira"
SECONDS = 900  # bound on every wait
ALONE = [sys.executable, "-m", "benchmarks.scaling.measured"]


@dataclass(frozen=True)
class Measured:
    """Seconds of a step of ``processes``: as one job, and as so many jobs beside each other."""

    processes: int
    together: float
    apart: float

    @property
    def efficiency(self) -> float:
        """1 where being one job costs nothing."""
        return self.apart / self.together


def keys(processes: int) -> list[str]:
    """The measured run, in which every process has one BatchNorm group of IMAGES images."""
    batch = [f"data.batch={IMAGES * processes}", f"model.bn_groups={processes}", "data.remainder=wrap"]
    stages = ["stages.di.epochs=0", "stages.dir.epochs=0", f"stages.{STAGE}.epochs=10000"]
    once = ["parallel.threads=1", "data.workers=1", "data.val_split=null", "checkpoint.every=100000", "log_every=1"]
    return ["experiment=small", "precision=fp32", *batch, *stages, *once]


def measure(processes: int, steps: int, shards: Path, out: Path) -> Measured:
    """``steps`` of ``processes`` as one job, then of as many jobs beside each other."""
    rest = [f"data.shards={shards}", f"steps={steps}"]
    runs = out / "runs"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    together = [f"run={runs}/together{processes}", *keys(processes), *rest]
    run([[*torchrun, *ALONE[1:], *together]], out, processes)
    mine = [runs / f"apart{processes}.{i}" for i in range(processes)]
    run([[*ALONE, f"run={folder}", *keys(1), *rest] for folder in mine], out, processes)
    seconds = statistics.median(times(runs / f"together{processes}"))
    apart = statistics.fmean(statistics.median(times(folder)) for folder in mine)
    return Measured(processes, together=seconds, apart=apart)


def times(folder: Path) -> list[float]:
    """Seconds of each step of a run that is not warming up."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["time/step"] + row.get("time/data", 0.0) for row in rows if row["split"] == "train"][WARM:]


def run(commands: Sequence[list[str]], out: Path, processes: int) -> None:
    """Run commands beside each other; their first steps wait for one another (:func:`pretrain`)."""
    gate = out / f"gate{time.time_ns()}"
    gate.mkdir(parents=True)
    mine = os.environ | {"SCALING_GATE": str(gate), "SCALING_PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}
    mine["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    started = []
    try:
        for i, command in enumerate(commands):
            log = (gate / f"{i}.log").open("w")
            started.append(
                subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=mine, start_new_session=True)
            )
        codes = [process.wait(timeout=SECONDS) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    for i, code in enumerate(codes):
        if code:
            raise SystemExit(f"{' '.join(commands[i])}: exit code {code}\n{(gate / f'{i}.log').read_text()[-2000:]}")


def pretrain(arguments: list[str]) -> int:
    """The command, its first step taken when all processes have come to theirs."""
    from dira_scale.engine.step import Step
    from dira_scale.pretrain import main as command

    gate, processes, take = Path(os.environ["SCALING_GATE"]), int(os.environ["SCALING_PROCESSES"]), Step.__call__

    def wait(self: Any, step: int, batch: Any) -> None:
        (gate / f"ready{os.getpid()}").touch()
        end = time.monotonic() + SECONDS
        while len(list(gate.glob("ready*"))) < processes and time.monotonic() < end:
            time.sleep(0.01)
        take(self, step, batch)

    Step.__call__ = wait  # type: ignore[method-assign]
    return command(arguments)


if __name__ == "__main__":
    raise SystemExit(leave(lambda: pretrain(sys.argv[1:])))
