"""Rows of the plan: each strategy with and without activation checkpointing, on the machine that was described."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from dira_scale.engine.parallel import checkpoint_activations
from dira_scale.planning import strategies
from dira_scale.planning.cluster import Cluster, Machine
from dira_scale.planning.network import Networks, one_rank_of
from dira_scale.planning.rehearsal import Rehearsal, rehearse
from dira_scale.planning.scaling import Job
from dira_scale.planning.strategies import Memory
from dira_scale.planning.timeline import StepTimes
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import stage_plans

USABLE = 0.95  # of a GPU's memory; the rest is the libraries' own and the allocator's rounding
GB = 1e9


@dataclass(frozen=True)
class Estimate:
    """A strategy, for the stage that needs the most memory; time and price of all stages.

    Attributes:
        checkpointing: activations are recomputed.
        largest: images of the largest micro-batch that fits; 0 where none does.
        sent: bytes of a rank in a step, the method's own collectives included.
        step: seconds of that stage's steps.
        images_per_second: of that stage, on all GPUs.
    """

    strategy: str
    checkpointing: bool
    memory: Memory
    fits: bool
    largest: int
    sent: float
    step: float
    images_per_second: float
    hours: float
    price: float


@dataclass(frozen=True)
class Rehearsed:
    """All stages gone through by one rank of many, and the heaviest again with twice the images."""

    ranks: int
    stages: Mapping[str, Rehearsal]
    twice: Rehearsal

    @property
    def heaviest(self) -> str:
        """The stage that needs the most memory."""
        return max(self.stages, key=lambda name: strategies.memory("ddp", self.ranks, self.stages[name]).peak)

    def peak(self, strategy: str, images: int, offload: bool) -> float:
        """Bytes that a rank would hold with ``images`` a step."""
        stage = self.stages[self.heaviest].at(images, self.twice)
        return strategies.memory(strategy, self.ranks, stage, offload).peak


def rehearse_all(config: Pretrain, cfg: DictConfig, ranks: int, checkpointing: bool) -> Rehearsed:
    """Go through a step of every stage as rank 0 of ``ranks``."""
    plans = stage_plans(config, lambda batch: 1)
    with one_rank_of(ranks):
        networks = Networks(config, cfg)
        if checkpointing:
            checkpoint_activations(networks.method)
        stages = {plan.name: rehearse(config, networks, plan, plan.batch // ranks) for plan in plans}
        found = Rehearsed(ranks, stages, next(iter(stages.values())))
        heaviest = next(plan for plan in plans if plan.name == found.heaviest)
        return replace(found, twice=rehearse(config, networks, heaviest, 2 * stages[heaviest.name].images))


def estimate(config: Pretrain, machine: Machine, rehearsed: Rehearsed, plain: Rehearsed, strategy: str) -> Estimate:
    """The row of ``strategy``; ``plain``: rehearsed without checkpointing, whose arithmetic a measured speed is of."""
    ranks, accumulate = rehearsed.ranks, config.parallel.accumulate
    offload = config.parallel.offload
    stage = rehearsed.stages[rehearsed.heaviest]
    held = strategies.memory(strategy, ranks, stage, offload)
    room = USABLE * machine.memory * GB
    speed = flops_per_second(machine, plain)
    plans = stage_plans(config, lambda batch: max(1, machine.images // batch))
    times = {
        name: seconds(machine, step, strategy, ranks, accumulate, speed) for name, step in rehearsed.stages.items()
    }
    hours = sum(plan.steps * times[plan.name] for plan in plans) / 3600
    step = times[rehearsed.heaviest]
    moved = strategies.traffic(strategy, stage, accumulate).sent(ranks)
    return Estimate(
        strategy=strategy,
        checkpointing=rehearsed is not plain,
        memory=held,
        fits=held.peak <= room,
        largest=largest(lambda images: rehearsed.peak(strategy, images, offload), room) // accumulate,
        sent=moved + sum(own_traffic(stage)),
        step=step,
        images_per_second=stage.images * ranks / step,
        hours=hours,
        price=hours * ranks * machine.price,
    )


def largest(peak: Callable[[int], float], room: float) -> int:
    """The largest number whose ``peak`` is within ``room``, where more never take less; 0 where not even 1 is."""
    if peak(1) > room:
        return 0
    fits, fails = 1, 2
    while peak(fails) <= room:
        fits, fails = fails, 2 * fails
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if peak(middle) <= room else (fits, middle)
    return fits


def flops_per_second(machine: Machine, plain: Rehearsed) -> float:
    """Of one GPU: from its measured images/s in the last stage, or as given."""
    last = list(plain.stages.values())[-1]
    if machine.images_per_second is not None:
        return machine.images_per_second * (last.forward + last.backward) / last.images
    return machine.tflops * 1e12


def seconds(machine: Machine, step: Rehearsal, strategy: str, ranks: int, accumulate: int, speed: float) -> float:
    """Of one optimizer step: arithmetic at ``speed``, and what of the communication it does not hide."""
    job = Job(
        Cluster(machine.gpus, machine.within * GB, machine.between * GB, machine.latency),
        StepTimes(forward=step.forward / speed, backward=step.backward / speed),
        strategies.traffic(strategy, step, accumulate),
        own=lambda ranks: step.collectives,
    )
    return job.seconds(ranks)


def own_traffic(step: Rehearsal) -> list[float]:
    """Bytes that a rank sends in each collective of the method, BatchNorm and the discriminator; rings."""
    return [(c.ranks - 1) / c.ranks * c.size * (2 if c.kind == "all_reduce" else 1) for c in step.collectives]
