"""Rows of the plan: each strategy with and without activation checkpointing, on the machine described by ``plan.*``."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from omegaconf import DictConfig
from torch import nn

from dira_scale.base.config.border import at
from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import DECODED_ON_GPU
from dira_scale.fleet.forecast import strategies
from dira_scale.fleet.forecast.links import GB, JITTER, Links, StepTimes, Workload
from dira_scale.fleet.forecast.network import fake_task, one_rank_of
from dira_scale.fleet.forecast.rehearsal import Rehearsal, rehearse
from dira_scale.fleet.forecast.strategies import Memory
from dira_scale.fleet.forecast.work import Work
from dira_scale.train.blocks import block_of, through_cache
from dira_scale.train.blueprint import Blueprint, blueprint_of
from dira_scale.train.config import StagedTraining
from dira_scale.train.data.cache.shards import Shards
from dira_scale.train.data.cache.traffic import traffic
from dira_scale.train.data.config import Data
from dira_scale.train.data.loaders.build import AUTO
from dira_scale.train.data.samples import Samples, stored_codecs
from dira_scale.train.data.views import PlaneViews, ViewSpec
from dira_scale.train.distributed.config import check_shard
from dira_scale.train.distributed.precision import AUTOCAST
from dira_scale.train.engine.graph import obstacle
from dira_scale.train.engine.parallel import checkpoint_activations
from dira_scale.train.engine.parallel.mesh import SHARE, smallest
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.inputs import Inputs
from dira_scale.train.planned import Machine, plan_of
from dira_scale.train.schedule import batches_of, check_division, spare_nodes, stage_plans

# Batches of views beside those made ahead: being made, its copy out of DALI's memory, on the way, in the step.
IN_USE = 4
USABLE = 0.95  # of a GPU's memory; the rest goes to libraries and allocator rounding


def planned_inputs(config: StagedTraining, views: ViewSpec, ranks: int, nodes: int = 1) -> tuple[int, float, list[str]]:
    """Training images of an epoch, bytes of GPU memory that the loader needs per image of a rank's batch, and what
    each of ``nodes`` fetches, if it does.

    The machine that plans needs no DALI and no cache: ``data.loader=auto`` counts as it does on a GPU machine after its
    set-up.
    """
    batches = tuple(set(batches_of(config).values()))
    here = replace(config.data, loader="cpu", helper=False, cache=None, cache_size=None, missing="stop")
    here.block = block_of(config.data)
    inputs, fetches = Inputs(here, views, config.seed, 0, ranks, batches), list[str]()
    if through_cache(config.data):
        shards, size = Shards(Samples(inputs.datasets, config.data.split), None), config.data.cache_size
        fetches = [traffic(inputs.order, shards, size * GB if size else math.inf, nodes)]
    return inputs.order.epoch_size, decoding_bytes(config.data, inputs.datasets, views), fetches


def decoding_bytes(data: Data, datasets: Sequence[ShardedDataset], views: ViewSpec) -> float:
    """An estimate of DALI's share for each image of a batch; 0 for a loader that decodes on the CPU.

    Two batches are decoded, one that runs and one that is queued behind it: the region of all crops, at most the whole
    image, and one view's crops, on average ``views.scale`` of it. Views are kept until the step has taken them.
    """
    on_gpu = data.loader == AUTO and stored_codecs(datasets) <= set(DECODED_ON_GPU)
    if not (on_gpu or data.loader == "dali"):
        return 0.0
    height, width, channels, bits = (
        np.concatenate([dataset.column(name)[dataset.rows(data.split)] for dataset in datasets]).astype(float)
        for name in ("height", "width", "channels", "bits")
    )
    pixel = channels.max() * bits.max() / 8  # bytes
    decoded = pixel * np.mean(height * width)
    shares = [sum(entry.scale) / 2 for entry in views.entries if isinstance(entry, PlaneViews)]
    crop = decoded * max(shares, default=1.0)
    pixels = sum(math.prod(view.sides) for view in views.each)
    return float(2 * (decoded + crop) + (data.prefetch + IN_USE) * pixel * pixels)


@dataclass(frozen=True)
class Estimate:
    """A strategy: memory for the stage that needs the most of it; time and price of all stages."""

    strategy: str
    checkpointing: bool  # activations are recomputed
    memory: Memory
    fits: bool
    largest: int  # images of the largest micro-batch that fits; 0 if none does
    sent: float  # bytes per rank and step, including the method's own collectives
    step: float  # seconds per step of that stage
    launching: bool  # whether that is how long its host takes to launch it
    images_per_second: float  # of that stage, on all GPUs
    hours: float
    price: float


@dataclass(frozen=True)
class Rehearsals:
    """All stages, rehearsed as one rank of many; the heaviest, which needs the most memory, also with two numbers of
    images (``few`` and ``many``) from which every other's memory is computed: 2 at least, as one takes fewer
    operations."""

    ranks: int
    stages: Mapping[str, Rehearsal]
    heaviest: str
    few: Rehearsal
    many: Rehearsal
    module: nn.Module | None = None  # what is trained
    remarks: Sequence[str] = ()  # about its batches, and what a node fetches


def prepared(command: str, cfg: DictConfig) -> tuple[Blueprint, int, float, list[str]]:
    """Return what is planned, with the number of images that its data has, the ranks, the loader's bytes on the GPU per
    image of a rank's batch, and remarks: what a node fetches, and a batch for fewer nodes.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    blueprint = blueprint_of(command, cfg)
    config, loading, fetches = blueprint.config, 0.0, list[str]()
    ranks = config.plan.nodes * config.plan.gpus
    check_division(config, ranks)
    with at("parallel"):
        check_shard(config.parallel.shard, ranks)
    if config.data.shards is not None:
        planned = planned_inputs(config, blueprint.views, ranks, config.plan.nodes)
        config.plan.images, loading, fetches = planned
    return blueprint, ranks, loading, [*fetches, *spare_nodes(config, ranks, config.plan.nodes)]


def rehearse_run(
    blueprint: Blueprint, ranks: int, checkpointing: bool = False, done: Callable[[], None] = lambda: None
) -> Rehearsals:
    """Rehearse a step of every stage of what ``blueprint`` trains as rank 0 of ``ranks``, and one more; call ``done``
    after each."""

    def rehearsed(plan: StagePlan, images: int) -> Rehearsal:
        rehearsal = rehearse(fake, plan, images, blueprint.config.parallel.accumulate)
        done()
        return rehearsal

    with one_rank_of(ranks):
        fake = fake_task(blueprint)
        if checkpointing:
            checkpoint_activations(fake.task.module)
        stages = {plan.name: rehearsed(plan, plan.batch // ranks) for plan in fake.stages}
        heaviest = max(fake.stages, key=lambda plan: strategies.memory("ddp", ranks, stages[plan.name]).peak)
        few = stages[heaviest.name]
        if few.images == 1:
            few = rehearse(fake, heaviest, 2, blueprint.config.parallel.accumulate)
        many = rehearsed(heaviest, 2 * few.images)
        if len(few.live_in_passes) != len(many.live_in_passes):  # a first step makes tables that later ones find
            few = rehearse(fake, heaviest, few.images, blueprint.config.parallel.accumulate)
        module = fake.task.module
        return Rehearsals(ranks, stages, heaviest.name, few, many, module, blueprint.remarks((module,)))


def estimate(
    config: StagedTraining, machine: Machine, rehearsed: Rehearsals, plain: Rehearsals, strategy: str, loading: float
) -> Estimate:
    """The row of ``strategy``. ``plain``: rehearsed without activation checkpointing, as measured speeds are.

    ``loading``: the loader's bytes on the GPU per image of a rank's batch.
    """
    ranks, accumulate, offload = rehearsed.ranks, config.parallel.accumulate, config.parallel.offload
    stage = rehearsed.stages[rehearsed.heaviest]
    shards = shards_of(config, machine, rehearsed) if strategy == "fsdp2" else ranks
    narrow = 0.5 if config.precision in AUTOCAST else 1.0  # nearly all of a network's weights are cast
    given = strategy, accumulate, rehearsed is not plain, config.precision
    captured = config.parallel.graph is True and not obstacle(*given, rehearsed.module or nn.Module())
    # Steps with and without monitors are two recordings, each of which keeps its gradients and what is sent of them.
    kept = captured * (1 + (ranks > 1)) * stage.trained
    memory = strategies.memory(strategy, shards, stage, offload, loading)
    memory = replace(memory, gradients=memory.gradients + kept, peak=memory.peak + kept)
    usable = USABLE * machine.memory * GB
    most = strategies.largest(strategy, shards, rehearsed.few, rehearsed.many, usable - kept, offload, loading)
    factor = measured_factor(machine, plain)
    works = {
        name: workload(machine, step, strategy, accumulate, factor, captured, shards % ranks, narrow)
        for name, step in rehearsed.stages.items()
    }
    times = {name: work.seconds(ranks) for name, work in works.items()}
    plans = stage_plans(config, lambda batch: max(1, machine.images // batch))
    hours = sum(plan.steps * times[plan.name] for plan in plans) / 3600
    # The method's own collectives, as rings.
    own = [(c.ranks - 1) / c.ranks * c.size * (2 if c.kind == "all_reduce" else 1) for c in stage.collectives]
    return Estimate(
        strategy=strategy,
        checkpointing=rehearsed is not plain,
        memory=memory,
        fits=memory.peak <= usable,
        largest=most // accumulate,
        sent=works[rehearsed.heaviest].traffic.sent(ranks) + sum(own),
        step=times[rehearsed.heaviest],
        launching=works[rehearsed.heaviest].step(ranks).parts(ranks)["host"] > 0,
        images_per_second=stage.images * ranks / times[rehearsed.heaviest],
        hours=hours,
        price=hours * ranks * machine.price,
    )


def shards_of(config: StagedTraining, machine: Machine, rehearsed: Rehearsals) -> int:
    """Return over how many ranks ``fsdp2`` shards: ``parallel.shard``, or as a run chooses it on this machine."""
    if config.parallel.shard != AUTO:
        return int(config.parallel.shard)
    step = rehearsed.stages[rehearsed.heaviest]
    held = 4 * (step.trained + step.idle) + step.momentum
    return smallest(held, SHARE * machine.memory * GB, rehearsed.ranks, machine.gpus)


def arithmetic(machine: Machine, work: Work) -> float:
    """Seconds of a GPU's ``work``: each product's at ``plan.tflops`` (half of it for fp32's) or ``plan.bandwidth``, by
    which it is bound (Williams et al., Commun. ACM 52, 2009); normalisations at ``plan.norm_bandwidth``, all else at
    ``plan.bandwidth``; products alone without a bandwidth.

    docs/evidence/scale.md compares it with measured steps.
    """
    flops, bandwidth = machine.tflops * 1e12, (machine.bandwidth or math.inf) * 1e12
    seconds = work.others / bandwidth
    if machine.bandwidth:
        seconds += (work.norms + work.idle) / ((machine.norm_bandwidth or machine.bandwidth) * 1e12)
    for product, count in work.products.items():
        seconds += count * max(product.flops * (2 if product.single else 1) / flops, product.moved / bandwidth)
    return seconds


def measured_factor(machine: Machine, plain: Rehearsals) -> float:
    """Return a step's time over that of its arithmetic: by the measured images/s of the last stage, else 1."""
    if machine.images_per_second is None:
        return 1.0
    last = list(plain.stages.values())[-1]
    return last.images / machine.images_per_second / arithmetic(machine, last.forward + last.backward)


def workload(
    machine: Machine,
    step: Rehearsal,
    strategy: str,
    accumulate: int,
    factor: float = 1.0,
    captured: bool = False,
    shards: int = 0,
    narrow: float = 1.0,
) -> Workload:
    """One optimizer step: arithmetic, ``factor`` times as long as ``machine`` has it, and the communication that this
    does not hide; or the host's work, none where the step is ``captured``, and which a measured speed has in it.
    ``shards`` and ``narrow``: as :func:`strategies.traffic` takes them."""
    launched = machine.images_per_second is None and not captured
    host = strategies.operations(strategy, step) * machine.dispatch if launched else 0.0
    forward, backward, beside = (
        factor * arithmetic(machine, work) for work in (step.forward, step.backward, step.beside)
    )
    return Workload(
        Links.of(machine, machine.gpus),
        StepTimes(forward, backward, beside, host=host, jitter=JITTER),
        strategies.traffic(strategy, step, accumulate, shards, narrow),
        messages=lambda ranks: step.collectives,
        control=machine.control,
    )


@dataclass(frozen=True)
class Configured:
    """A run as configured."""

    row: Estimate  # as in the table of ``plan``, with hours and price up to ``steps``
    images: int
    steps: int  # of the optimizer
    remarks: Sequence[str] = ()  # what users should know about its batches and data


def planned(command: str, words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Return the plan of a run of ``command`` with these ``words`` on a ``machine``, by the keys of ``plan.*``.

    Raises UserError as ``prepared``.
    """
    cfg = compose(plan_of(command), [*words, *(f"plan.{key}={value}" for key, value in machine.items())])
    blueprint, ranks, loading, fetches = prepared(command, cfg)
    config = blueprint.config
    plain = rehearse_run(blueprint, ranks)
    again = config.parallel.checkpoint_activations
    rehearsed = rehearse_run(blueprint, ranks, checkpointing=True) if again else plain
    row = estimate(config, config.plan, rehearsed, plain, config.parallel.strategy, loading)
    total = sum(plan.steps for plan in stage_plans(config, lambda batch: max(1, config.plan.images // batch)))
    steps = min(total, config.steps or total)
    share = steps / total
    row = replace(row, hours=row.hours * share, price=row.price * share)
    return Configured(row, config.plan.images, steps, (*fetches, *plain.remarks))
