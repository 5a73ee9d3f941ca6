"""Several processes here, measured; 8 to 1,024 GPUs, simulated; and how accurate the simulation is.

    python -m dira_scale.bench scaling [--out out/scaling] [--processes 1 2 4] [--experiment dira_moco]

Measured: `pretrain` itself (DiRA-MoCo, ResNet-18, 64 pixels, phantoms, gloo) with the same work for every process. As
processes share this machine's cores, one job of W processes is compared with W separate jobs that start at the same
moment: the difference is the cost of being one job. The plain ratio to one process is beside it. --loaders: by each of
these (cpu; also helper, dali, ffcv, stream); one that cannot read the phantoms here says why.

Simulated: the step of dira_scale.forecast (arithmetic, rings and trees, what is hidden, the slowest of W), with the
values measured here (computation, its jitter, gloo's bandwidth and latency); then published figures; then the GPUs that
`python -m dira_scale.plan` describes, with the jitter that torchtitan's 97 % implies, failures and checkpoints. Every
row says whether it is measured or simulated. OUT/scaling.json has all figures, OUT/scaling.png the curves.
"""

import argparse
import itertools
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.backends import BACKENDS, make_shards, open_all
from benchmarks.scaling.measured import Measured, gloo, keys, measure
from benchmarks.scaling.plot import draw
from benchmarks.scaling.published import PUBLISHED
from benchmarks.scaling.simulated import GPUS, gpus, here, simulate
from benchmarks.scaling.tables import tell_measured, tell_published, tell_simulated
from dira_scale.data.views import ViewSpec
from dira_scale.runs.environment import environment


def processes_here(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What is measured, and the simulation of just that."""
    out: Path = arguments.out
    measured: list[Measured] = []
    left_out: dict[str, str] = {}
    if arguments.processes:
        shards = make_shards(out, 8, 128)
        given = [*keys(1), f"data.shards={shards}"]
        readable, left_out = open_all(arguments.loaders, given, ViewSpec(), "cpu", 1, out)
        for loader, processes in itertools.product(readable, arguments.processes):
            console.print(f"{loader}, {processes} process(es), as one job and apart …", style="dim", highlight=False)
            measured.append(measure(processes, loader, arguments.steps, shards, out))
    several = [m for m in measured if m.processes > 1 and m.loader == measured[0].loader]
    simulated = {m.processes: here(m, gloo(m.processes, out)) for m in several}
    load = os.getloadavg()[0]
    tell_measured(console, measured, simulated, load, left_out)
    return {
        "environment": environment() | {"cores": len(os.sched_getaffinity(0)), "load": load},
        "measured": [asdict(m) | {"efficiency": m.efficiency} for m in measured],
        "left_out": left_out,
        "simulated_here": simulated,
    }


def many_gpus(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What is simulated, once it is held against what others have published."""
    jitter = PUBLISHED[0].jitter()
    published = [
        {"what": p.what, "few": p.few, "many": p.many, "efficiency": p.efficiency, "simulated": p.simulated(jitter)}
        for p in PUBLISHED
    ]
    tell_published(console, published, jitter)
    job, machine = gpus(arguments.experiment, arguments.keys, arguments.images, jitter)
    simulated = [simulate(job, ranks, arguments) for ranks in GPUS]
    tell_simulated(console, simulated, arguments)
    return {"published": published, "jitter": jitter, "machine": machine, "simulated_gpus": simulated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scaling"))
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="measured here; none: only simulate"
    )
    parser.add_argument("--loaders", nargs="+", choices=BACKENDS, default=["cpu"], help="of the measured runs")
    parser.add_argument("--steps", type=int, default=20, help="of each measured run")
    parser.add_argument("--experiment", default="dira_moco", help="simulated on GPUs")
    parser.add_argument(
        "--keys", nargs="*", default=[], help="of plan: plan.between=180 plan.tflops=120 model.encoder=…"
    )
    parser.add_argument("--images", type=int, default=64, help="of a GPU (the paper's)")
    parser.add_argument("--save", type=float, default=2.0, help="seconds that training stands still for a checkpoint")
    parser.add_argument("--restart", type=float, default=300.0, help="seconds from a failure to the next step")
    parser.add_argument("--mtbf", type=float, default=50_000.0, help="hours between two failures of one GPU")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    console = console if console.is_terminal else Console(width=110)
    result = processes_here(arguments, console) | many_gpus(arguments, console)
    (arguments.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(arguments.out / "scaling.png", result)
    console.print(f"\n{arguments.out}/scaling.json and scaling.png", markup=False, highlight=False)


if __name__ == "__main__":
    main()
