"""Simulated: the step measured here, and a job of configs/plan.yaml on many GPUs."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from benchmarks.scaling.goodput import Failures
from benchmarks.scaling.measured import IMAGES, STAGE, Measured, keys
from benchmarks.scaling.published import efficiency
from dira_scale.config.compose import compose
from dira_scale.planning.ledger import Collective
from dira_scale.planning.links import Links
from dira_scale.planning.network import fake_pretraining, one_rank_of
from dira_scale.planning.rehearsal import Rehearsal, rehearse
from dira_scale.planning.strategies import traffic
from dira_scale.planning.timeline import StepTimes, Workload

GPUS = tuple(2**i for i in range(3, 11))


def step_of(arguments: Sequence[str], processes: int, images: int) -> Rehearsal:
    """The step of a configuration, gone through as one of many ranks."""
    cfg = compose("plan", list(arguments))
    config: Any = OmegaConf.to_object(cfg)
    with one_rank_of(processes):
        fake = fake_pretraining(config, cfg)
        stage = next(plan for plan in fake.stages if plan.name == STAGE)
        return rehearse(fake, stage, images, config.parallel.accumulate)


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
    """The job of ``experiment`` on the machine of configs/plan.yaml, ``images`` and one BatchNorm group a GPU."""

    def arguments(ranks: int) -> list[str]:
        return [f"experiment={experiment}", f"data.batch={images * ranks}", f"model.bn_groups={ranks}", *keys]

    few, more = (step_of(arguments(ranks), ranks, images) for ranks in (8, 16))
    machine = {**compose("plan", arguments(8)).plan, "gpus": 8}

    def messages(ranks: int) -> list[Collective]:
        """What is gathered grows with the global batch, what is averaged does not: a line through two jobs."""
        pairs = zip(few.collectives, more.collectives, strict=True)
        sizes = [(a.kind, a.size + (b.size - a.size) * (ranks - 8) / 8) for a, b in pairs]
        return [Collective(kind, round(size), ranks) for kind, size in sizes]

    links = Links(8, machine["within"] * 1e9, machine["between"] * 1e9, machine["latency"])
    alone = arithmetic(few, (few.forward + few.backward) / (machine["tflops"] * 1e12), jitter)
    return Workload(links, alone, traffic("ddp", few, 1), messages), machine


def simulate(work: Workload, ranks: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of one number of GPUs."""
    without = replace(work, messages=lambda _: ())
    failures = Failures.of(ranks, arguments.mtbf, arguments.save, arguments.restart)
    interval = failures.best_interval()
    return {
        "gpus": ranks,
        "step": work.seconds(ranks),
        "images_per_second": arguments.images * ranks / work.seconds(ranks),
        "efficiency": efficiency(work, 1, ranks),
        "efficiency_without_own": efficiency(without, 1, ranks),
        "mtbf": failures.mtbf,
        "interval": interval,
        "young": failures.young(),
        "goodput": failures.goodput(interval),
    }
