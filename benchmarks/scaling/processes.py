"""The measured processes: how they are started together, and what each does.

python -m benchmarks.scaling.processes pretrain|link ARGUMENTS     what `bench scaling` starts
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dira_scale.distributed.processes import leave

SECONDS = 900  # bound on every wait
BYTES = (1024, 32 * 2**20)  # of the all-reduces that measure gloo


def alone(*words: str) -> list[str]:
    """The command of one process of this file."""
    return [sys.executable, "-m", __name__, *words]


def torchrun(processes: int, *words: str) -> list[str]:
    """The same as a job of several."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [sys.executable, "-m", *launcher, "-m", __name__, *words]


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
    """The verb, its first step taken when all processes have come to theirs."""
    from dira_scale.engine.step import Step
    from dira_scale.pretrain import main as verb

    gate, processes, take = Path(os.environ["SCALING_GATE"]), int(os.environ["SCALING_PROCESSES"]), Step.__call__

    def wait(self: Any, step: int, batch: Any) -> None:
        (gate / f"ready{os.getpid()}").touch()
        end = time.monotonic() + SECONDS
        while len(list(gate.glob("ready*"))) < processes and time.monotonic() < end:
            time.sleep(0.01)
        take(self, step, batch)

    Step.__call__ = wait  # type: ignore[method-assign]
    return verb(arguments)


def link(arguments: list[str]) -> int:
    """Seconds of all-reduces over gloo, written by rank 0 to the file that is named."""
    dist.init_process_group("gloo")
    result = []
    for size in BYTES:
        x, taken = torch.zeros(size // 4), []
        for _ in range(12):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(x)
            taken.append(time.perf_counter() - began)
        result.append(statistics.median(taken[2:]))
    if dist.get_rank() == 0:
        Path(arguments[0]).write_text(json.dumps(result))
    return 0


def main(words: Sequence[str]) -> int:
    work: dict[str, Callable[[list[str]], int]] = {"pretrain": pretrain, "link": link}
    return work[words[0]](list(words[1:]))


if __name__ == "__main__":
    raise SystemExit(leave(lambda: main(sys.argv[1:])))
