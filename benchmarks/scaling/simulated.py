"""Simulated: the step measured here, and a job of configs/plan.yaml on many GPUs."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from omegaconf import OmegaConf

from benchmarks.scaling.goodput import Failures
from benchmarks.scaling.measured import IMAGES, STAGE, Measured, keys
from benchmarks.scaling.published import efficiency
from dira_scale.config.compose import compose
from dira_scale.forecast.ledger import Collective
from dira_scale.forecast.links import Links
from dira_scale.forecast.network import fake_task, one_rank_of
from dira_scale.forecast.rehearsal import Rehearsal, rehearse
from dira_scale.forecast.strategies import traffic
from dira_scale.forecast.timeline import StepTimes, Workload
from dira_scale.pretrain.blueprint import PretrainBlueprint

GPUS = tuple(2**i for i in range(3, 11))
REHEARSED = 64, 128  # processes: more than any BatchNorm group or block of a shuffle that is meant to stay


def step_of(arguments: Sequence[str], processes: int, images: int) -> Rehearsal:
    """The step of a configuration, gone through as one of many ranks."""
    cfg = compose("plan", list(arguments))
    blueprint = PretrainBlueprint(cfg)
    with one_rank_of(processes):
        fake = fake_task(blueprint)
        stage = next(plan for plan in fake.stages if plan.name == STAGE)
        return rehearse(fake, stage, images, blueprint.config.parallel.accumulate)


def here(result: Measured, cluster: Links) -> float:
    """Seconds of the step that was measured, simulated from the runs apart and from gloo's all-reduce."""
    step = step_of(keys(result.processes), result.processes, IMAGES)
    alone = arithmetic(step, result.apart, result.jitter)
    return Workload(cluster, alone, traffic("ddp", step, 1), lambda ranks: step.collectives).seconds(result.processes)


def arithmetic(step: Rehearsal, seconds: float, jitter: float) -> StepTimes:
    """``seconds`` of it, cut into forward and backward pass as ``step``'s is."""
    forward = seconds * step.forward / (step.forward + step.backward)
    return StepTimes(forward=forward, backward=seconds - forward, jitter=jitter)


def gpus(experiment: str, keys: Sequence[str], images: int, jitter: float) -> tuple[Workload, dict[str, Any]]:
    """The job of ``experiment``, ``images`` and one BatchNorm group a GPU, on the machine of ``keys`` (default:
    configs/plan.yaml's) in nodes of 8."""

    def arguments(ranks: int) -> list[str]:
        groups = ["model.bn_groups=null", f"model.bn_group_size={images}"]
        return [f"experiment={experiment}", f"data.batch={images * ranks}", *groups, *keys]

    few, more = (step_of(arguments(ranks), ranks, images) for ranks in REHEARSED)
    machine: Any = OmegaConf.to_object(compose("plan", arguments(8)).plan)
    speed = machine.tflops * 1e12
    alone = arithmetic(few, (few.forward + few.backward) / speed, jitter)
    work = Workload(
        Links.of(machine, 8),
        replace(alone, host=few.operations * machine.dispatch),
        traffic("ddp", few, 1),
        messages=lambda ranks: messages(few.collectives, more.collectives, ranks),
        control=machine.control,
    )
    return work, asdict(machine) | {"gpus": 8}


def messages(few: Sequence[Collective], more: Sequence[Collective], ranks: int) -> list[Collective]:
    """Of a job of ``ranks``: sizes and groups grow with the job or stay, by a line through those of two jobs."""
    if ranks == 1:
        return []

    def line(a: float, b: float) -> float:
        return a + (b - a) * (ranks - REHEARSED[0]) / (REHEARSED[1] - REHEARSED[0])

    def message(a: Collective, b: Collective) -> Collective:
        assert (a.kind, a.asynchronous) == (b.kind, b.asynchronous)
        return a._replace(size=round(line(a.size, b.size)), ranks=min(ranks, round(line(a.ranks, b.ranks))))

    return [message(a, b) for a, b in zip(few, more, strict=True)]


def simulate(work: Workload, ranks: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one number of GPUs."""
    without = replace(work, messages=lambda _: ())
    parts = work.step(ranks).parts(ranks)
    failures = Failures.of(ranks, arguments.mtbf, arguments.save, arguments.restart)
    interval = failures.best_interval()
    return {
        "gpus": ranks,
        "step": work.seconds(ranks),
        "parts": parts,
        "images_per_second": arguments.images * ranks / work.seconds(ranks),
        "efficiency": efficiency(work, 1, ranks),
        "efficiency_without_own": efficiency(without, 1, ranks),
        "mtbf": failures.mtbf,
        "interval": interval,
        "young": failures.young(),
        "goodput": failures.goodput(interval),
    }
