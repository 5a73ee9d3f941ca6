"""Several processes here, measured; 8 to 1,024 GPUs, simulated.

    python -m dira_scale.bench scaling [--out out/scaling] [--processes 1 2 4] [--experiment dira_moco]

Measured: `pretrain` itself (DiRA-MoCo, ResNet-18, 64 pixels, phantoms, gloo) with the same work for every process. As
processes share this machine's cores, one job of W processes is compared with W separate jobs that start at the same
moment: the difference is the cost of being one job. The plain ratio to one process is beside it.

Simulated: the step of dira_scale.forecast (arithmetic, rings and trees, what is hidden, the slowest of W) on the GPUs
that `python -m dira_scale.plan` describes. Every row says whether it is measured or simulated. OUT/scaling.json has all
figures.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import tables
from benchmarks.backends import make_shards
from benchmarks.scaling.measured import Measured, measure
from benchmarks.scaling.simulated import GPUS, JITTER, gpus, simulate
from dira_scale.runs.environment import environment


def processes_here(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What is measured."""
    out, measured, cores = arguments.out, list[Measured](), len(os.sched_getaffinity(0))
    if arguments.processes:
        shards = make_shards(out, 16, 128, 128, cores)
        for processes in arguments.processes:
            console.print(f"{processes} process(es), as one job and apart …", style="dim", highlight=False)
            measured.append(measure(processes, arguments.steps, shards, out))
    load = os.getloadavg()[0]
    title = f"This machine: {cores} cores (load {load:.0f}), gloo; ms of a step"
    head = ["row", "processes", "ms apart", "ms together", "speed-up", "efficiency"]
    tables.tell(console, title, head, rows(measured), {})
    reported = [asdict(m) | {"efficiency": m.efficiency} for m in measured]
    return {"environment": environment() | {"cores": cores, "load": load}, "measured": reported}


def rows(measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Processes of this machine."""
    item = next((m.together for m in measured if m.processes == 1), None)
    result: list[tuple[str, ...]] = []
    for m in measured:
        ratio = f"{m.processes * item / m.together:.2f}" if item else "–"
        apart, together = f"{1000 * m.apart:.0f}", f"{1000 * m.together:.0f}"
        result.append(("measured", str(m.processes), apart, together, ratio, percent(m.efficiency)))
    return result


def many_gpus(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What is simulated: one job on more and more GPUs."""
    job, machine = gpus(arguments.experiment, arguments.keys, arguments.images)
    simulated = [simulate(job, ranks, arguments.images) for ranks in GPUS]
    chosen = next((key for key in arguments.keys if key.startswith("machine=")), "machine=a100")
    title = f"{arguments.experiment}, {arguments.images} images a GPU, nodes of 8, {chosen}"
    head = ["row", "GPUs", "ms/step", "images/s", "efficiency", "without keys"]
    tables.tell(console, title, head, [simulated_row(row) for row in simulated], {})
    names = list(simulated[0]["parts"])
    parts = [(str(row["gpus"]), *(f"{1000 * row['parts'][name]:.1f}" for name in names)) for row in simulated]
    tables.tell(console, "Simulated: where the ms of a step go", ["GPUs", *names], parts, {})
    console.print(
        "'without keys': without what the method itself gathers and averages (MoCo's keys; with several BatchNorm "
        "groups its images change places between the GPUs).\n"
        "Gradients, asynchronous messages (keys): what the backward pass does not hide of them. Blocking: BatchNorm, "
        "discriminator, images that change places. Host, control (gloo's message about signals): by how much they "
        "outlast all else. No loader is late, and nothing fails.",
        style="dim",
        highlight=False,
    )
    return {"jitter": JITTER, "machine": machine, "simulated_gpus": simulated}


def simulated_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    step, rate = f"{1000 * row['step']:.1f}", f"{row['images_per_second']:,.0f}"
    shares = percent(row["efficiency"]), percent(row["efficiency_without_own"])
    return "simulated", str(row["gpus"]), step, rate, *shares


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scaling"))
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="measured here; none: only simulate"
    )
    parser.add_argument("--steps", type=int, default=20, help="of each measured run")
    parser.add_argument("--experiment", default="dira_moco", help="simulated on GPUs")
    parser.add_argument(
        "--keys", nargs="*", default=[], help="of plan: plan.between=180 plan.tflops=120 model.encoder=…"
    )
    parser.add_argument("--images", type=int, default=64, help="of a GPU (the paper's)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = tables.console()
    result = processes_here(arguments, console) | many_gpus(arguments, console)
    (arguments.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"\n{arguments.out}/scaling.json", markup=False, highlight=False)


if __name__ == "__main__":
    main()
