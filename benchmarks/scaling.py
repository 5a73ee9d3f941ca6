"""8 to 1,024 GPUs, simulated.

    python -m dira_scale.bench scaling [--out out/scaling] [--experiment dira_moco]

The step of dira_scale.fleet.forecast (arithmetic, rings and trees, what is hidden, the slowest of W) on the GPUs that
`python -m dira_scale.plan` describes. OUT/scaling.json has all figures.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks import tables
from dira_scale.base.config.compose import compose
from dira_scale.fleet.forecast.estimate import arithmetic
from dira_scale.fleet.forecast.ledger import CollectiveMessage
from dira_scale.fleet.forecast.links import JITTER, Links, StepTimes, Workload
from dira_scale.fleet.forecast.network import fake_task, one_rank_of
from dira_scale.fleet.forecast.rehearsal import Rehearsal, rehearse
from dira_scale.fleet.forecast.strategies import traffic
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.runs.environment import environment

GPUS = tuple(2**i for i in range(3, 11))
REHEARSED = 64, 128  # processes: more than any BatchNorm group or block of a shuffle that is meant to stay
STAGE = "dira"


def efficiency(work: Workload, few: int, many: int) -> float:
    """Throughput per GPU on ``many`` relative to ``few``."""
    return work.seconds(few) / work.seconds(many)


def step_of(arguments: Sequence[str], processes: int, images: int) -> Rehearsal:
    """The step of a configuration, gone through as one of many ranks."""
    cfg = compose("plan", list(arguments))
    blueprint = PretrainBlueprint(cfg)
    with one_rank_of(processes):
        fake = fake_task(blueprint)
        stage = next(plan for plan in fake.stages if plan.name == STAGE)
        return rehearse(fake, stage, images, blueprint.config.parallel.accumulate)


def gpus(experiment: str, keys: Sequence[str], images: int) -> tuple[Workload, dict[str, Any]]:
    """The job of ``experiment``, ``images`` and one BatchNorm group a GPU, on the machine of ``keys`` (default:
    configs/plan.yaml's) in nodes of 8."""

    def arguments(ranks: int) -> list[str]:
        groups = ["model.bn_groups=null", f"model.bn_group_size={images}"]
        return [f"experiment={experiment}", f"data.batch={images * ranks}", *groups, *keys]

    few, more = (step_of(arguments(ranks), ranks, images) for ranks in REHEARSED)
    machine: Any = OmegaConf.to_object(compose("plan", arguments(8)).plan)
    forward, backward, beside = (arithmetic(machine, work) for work in (few.forward, few.backward, few.beside))
    work = Workload(
        Links.of(machine, 8),
        StepTimes(forward, backward, beside, jitter=JITTER),
        traffic("ddp", few, 1),
        messages=lambda ranks: messages(few.collectives, more.collectives, ranks),
        control=machine.control,
    )
    return work, asdict(machine) | {"gpus": 8}


def messages(
    few: Sequence[CollectiveMessage], more: Sequence[CollectiveMessage], ranks: int
) -> list[CollectiveMessage]:
    """A job's messages: sizes and groups grow with its ``ranks`` or stay, by a line through those of two jobs."""
    if ranks == 1:
        return []

    def line(a: float, b: float) -> float:
        return a + (b - a) * (ranks - REHEARSED[0]) / (REHEARSED[1] - REHEARSED[0])

    def message(a: CollectiveMessage, b: CollectiveMessage) -> CollectiveMessage:
        assert (a.kind, a.asynchronous) == (b.kind, b.asynchronous)
        return a._replace(size=round(line(a.size, b.size)), ranks=min(ranks, round(line(a.ranks, b.ranks))))

    return [message(a, b) for a, b in zip(few, more, strict=True)]


def simulate(work: Workload, ranks: int, images: int) -> dict[str, Any]:
    """Figures of one number of GPUs."""
    return {
        "gpus": ranks,
        "step": work.seconds(ranks),
        "parts": work.step(ranks).parts(ranks),
        "images_per_second": images * ranks / work.seconds(ranks),
        "efficiency": efficiency(work, 1, ranks),
        "efficiency_without_own": efficiency(replace(work, messages=lambda _: ()), 1, ranks),
    }


def row(simulated: Mapping[str, Any]) -> tuple[str, ...]:
    step, rate = f"{1000 * simulated['step']:.1f}", f"{simulated['images_per_second']:,.0f}"
    shares = percent(simulated["efficiency"]), percent(simulated["efficiency_without_own"])
    return "simulated", str(simulated["gpus"]), step, rate, *shares


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/scaling"))
    parser.add_argument("--experiment", default="dira_moco")
    parser.add_argument(
        "--keys", nargs="*", default=[], help="of plan: plan.between=180 plan.tflops=120 model.encoder=…"
    )
    parser.add_argument("--images", type=int, default=64, help="of a GPU (the paper's)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    job, machine = gpus(arguments.experiment, arguments.keys, arguments.images)
    simulated, console = [simulate(job, ranks, arguments.images) for ranks in GPUS], tables.console()
    chosen = next((key for key in arguments.keys if key.startswith("machine=")), "machine=a100")
    title = f"{arguments.experiment}, {arguments.images} images a GPU, nodes of 8, {chosen}"
    head = ["row", "GPUs", "ms/step", "images/s", "efficiency", "without keys"]
    tables.tell(console, title, head, [row(each) for each in simulated], {})
    names = list(simulated[0]["parts"])
    parts = [(str(each["gpus"]), *(f"{1000 * each['parts'][name]:.1f}" for name in names)) for each in simulated]
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
    result = {"environment": environment(), "jitter": JITTER, "machine": machine, "simulated_gpus": simulated}
    (arguments.out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"\n{arguments.out}/scaling.json", markup=False, highlight=False)


if __name__ == "__main__":
    main()
