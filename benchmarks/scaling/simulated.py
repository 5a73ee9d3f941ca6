"""Simulated: a job of configs/plan.yaml on many GPUs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.forecast.ledger import Collective
from dira_scale.forecast.links import Links, StepTimes, Workload
from dira_scale.forecast.network import fake_task, one_rank_of
from dira_scale.forecast.rehearsal import Rehearsal, rehearse
from dira_scale.forecast.strategies import traffic
from dira_scale.pretrain.blueprint import PretrainBlueprint

GPUS = tuple(2**i for i in range(3, 11))
REHEARSED = 64, 128  # processes: more than any BatchNorm group or block of a shuffle that is meant to stay
STAGE = "dira"
# How much the speed of equal GPUs varies from step to step; nobody publishes it. With it torchtitan's 97.3 % is
# simulated (Llama 3.1 8B, FSDP, 8 to 128 H100); docs/evidence/scale.md has more of what it gives.
JITTER = 0.02397


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
    speed = machine.tflops * 1e12
    work = Workload(
        Links.of(machine, 8),
        StepTimes(few.forward / speed, few.backward / speed, host=few.operations * machine.dispatch, jitter=JITTER),
        traffic("ddp", few, 1),
        messages=lambda ranks: messages(few.collectives, more.collectives, ranks),
        control=machine.control,
    )
    return work, asdict(machine) | {"gpus": 8}


def messages(few: Sequence[Collective], more: Sequence[Collective], ranks: int) -> list[Collective]:
    """A job's messages: sizes and groups grow with its ``ranks`` or stay, by a line through those of two jobs."""
    if ranks == 1:
        return []

    def line(a: float, b: float) -> float:
        return a + (b - a) * (ranks - REHEARSED[0]) / (REHEARSED[1] - REHEARSED[0])

    def message(a: Collective, b: Collective) -> Collective:
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
