"""Bytes of each strategy, by hand, for a step small enough to do so."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.fleet.forecast import estimate
from dira_scale.fleet.forecast.estimate import Rehearsals, decoding_bytes, measured_factor, workload
from dira_scale.fleet.forecast.ledger import LiveBytes
from dira_scale.fleet.forecast.links import JITTER, Links, StepTimes, Workload
from dira_scale.fleet.forecast.rehearsal import NetworkGroup, Rehearsal
from dira_scale.fleet.forecast.strategies import DEEPSPEED_BUCKET, STRATEGIES, largest, memory, traffic
from dira_scale.fleet.forecast.work import Product, Work
from dira_scale.train.data.views import ViewSpec

# 100 bytes are trained (60 of them in a group that two views pass), 40 follow (30 in a group that one view passes).
STEP = Rehearsal(
    images=4,
    trained=100,
    idle=20,
    momentum=40,
    buffers=8,
    teachers=0,
    optimizer=200,
    adversary=12,
    live_in_passes=[LiveBytes(0, 1000), LiveBytes(60, 980), LiveBytes(100, 300)],
    live_in_update=[LiveBytes(100, 100)],
    forward=Work(),
    backward=Work(),
    beside=Work(),
    operations=0,
    collectives=[],
    blocks=2,
    groups=[NetworkGroup(60, learning=2, looking=0), NetworkGroup(30, learning=0, looking=1)],
)


def test_memory_of_replicas() -> None:
    alone, four = memory("ddp", 1, STEP), memory("ddp", 4, STEP)
    fixed = 100 + 20 + 40 + 8 + 200 + 12
    assert alone.peak == fixed + 980 + 60
    assert four.peak == alone.peak and four.communication == 0  # gradients are sent once activations are released
    few = replace(STEP, live_in_passes=[LiveBytes(100, 10)], live_in_update=[])
    assert memory("ddp", 4, few).peak - memory("ddp", 1, few).peak == 100 - 10  # beside a copy that is sent
    assert (four.parameters, four.momentum, four.gradients, four.optimizer) == (120, 48, 100, 200)


@pytest.mark.parametrize(("ranks", "few", "many"), [(8, 2, 4), (2, 4, 8)])
def test_memory_of_ranks_with_one_image_is_computed_from_two_and_four(
    ranks: int, few: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of a single image takes fewer operations: no line goes through it and another number's."""

    def rehearse(fake: Any, plan: Any, images: int, accumulate: int) -> Rehearsal:
        live = [LiveBytes(0, 1000 * images)] * (2 if images == 1 else 3)
        return replace(STEP, images=images, live_in_passes=live)

    monkeypatch.setattr(estimate, "rehearse", rehearse)
    fake = SimpleNamespace(stages=[SimpleNamespace(name="re", batch=8)], task=SimpleNamespace(module=None))
    monkeypatch.setattr(estimate, "fake_task", lambda blueprint: fake)
    config = SimpleNamespace(parallel=SimpleNamespace(accumulate=1))
    blueprint: Any = SimpleNamespace(config=config, remarks=lambda modules: ())
    every = estimate.rehearse_run(blueprint, ranks)
    assert (every.stages["re"].images, every.few.images, every.many.images) == (8 // ranks, few, many)
    held = [memory("ddp", ranks, step).peak for step in (every.few, every.many)]
    assert largest("ddp", ranks, every.few, every.many, 2 * held[1] - held[0]) == 2 * many - few


@pytest.mark.parametrize(
    ("strategy", "parameters", "momentum", "gradients", "optimizer"),
    [
        ("fsdp2", 30, 18, 60 / 4 + 40, 50),
        ("zero1", 120, 48, 100, 50 + 25),
        ("zero2", 120, 48, 25, 50 + 25),
        ("zero3", 30, 18, 25, 50 + 25),
    ],
)  # fmt: skip
def test_memory_of_four_ranks(
    strategy: str, parameters: float, momentum: float, gradients: float, optimizer: float
) -> None:
    held = memory(strategy, 4, STEP)
    assert (held.parameters, held.momentum) == (parameters, momentum)
    assert (held.gradients, held.optimizer) == (gradients, optimizer)
    assert held.activations == 1000 and held.adversary == 12


@pytest.mark.parametrize(("strategy", "share"), [("ddp", 1), ("zero1", 1 / 4), ("fsdp2", 1 / 4)])
def test_temporaries_of_the_update_are_as_many_as_the_states(strategy: str, share: float) -> None:
    few, more = (replace(STEP, live_in_update=[LiveBytes(100, size)]) for size in (8000, 12000))
    assert memory(strategy, 4, more).peak - memory(strategy, 4, few).peak == 4000 * share


def test_buffers() -> None:
    assert memory("fsdp2", 4, STEP).communication == (160 - 90) + 3 * 60
    assert memory("zero2", 4, STEP).communication == 2 * DEEPSPEED_BUCKET
    assert memory("zero3", 4, STEP).communication == 160 + DEEPSPEED_BUCKET
    assert memory("zero2", 4, STEP, offload=True).optimizer == 0


def test_traffic_of_four_ranks() -> None:
    """A ring sends 2 · 3/4 of what is reduced, 3/4 of what is gathered or scattered."""
    assert traffic("ddp", STEP, 1).sent(4) == 0.75 * 2 * 100
    assert traffic("zero1", STEP, 1).sent(4) == traffic("zero2", STEP, 1).sent(4) == 0.75 * (100 + 100)
    assert traffic("zero3", STEP, 1).sent(4) == 0.75 * (160 + 100 + 100)  # all parameters, then what is trained
    root = 160 - 90
    forward, backward, scattered = root + 2 * 60 + 30, 2 * 60, 2 * 60 + (100 - 60)
    assert traffic("fsdp2", STEP, 1).sent(4) == 0.75 * (forward + backward + scattered)


def test_traffic_over_a_mesh() -> None:
    """Two replicas of two shards: half of each gather, in 16 bits, and the replicas reduce half of the gradients."""
    root, gathered, scattered = 160 - 90, 2 * 60 + 30 + 2 * 60, 2 * 60 + (100 - 60)
    moved = traffic("fsdp2", STEP, 1, shards=2, narrow=0.5)
    assert moved.sent(4) == 0.5 * (0.5 * (root + gathered) + scattered) + 2 * 0.5 * (100 / 2)
    assert moved.sent(2) == 0.5 * (0.5 * (root + gathered) + scattered)
    links = Links(per_node=2, within=100.0, between=10.0, latency_within=0, latency_between=0, links=2)
    alone = StepTimes(forward=0, backward=0)
    parts = Workload(links, alone, moved).step(4)
    assert parts.ahead == pytest.approx(0.5 * moved.ahead / 100)
    # The two shards of a node reduce at once, by a link each, as trees or rings of two.
    assert parts.behind == pytest.approx(0.5 * moved.behind / 100 + 2 * 0.5 * 50 / 10)


def test_accumulation_costs_replicas_nothing_and_sharded_gradients_much() -> None:
    assert traffic("ddp", STEP, 4) == traffic("ddp", STEP, 1)
    assert traffic("zero1", STEP, 4) == traffic("zero1", STEP, 1)
    assert traffic("zero2", STEP, 4).sent(4) == 0.75 * (4 * 100 + 100)
    assert traffic("zero3", STEP, 4).sent(4) == 4 * traffic("zero3", STEP, 1).sent(4)
    # A group's two passes are then of two micro-batches: it scatters gradients once; the rest is gathered twice.
    assert traffic("fsdp2", STEP, 2).sent(4) == 0.75 * (2 * 70 + 2 * 60 + 30 + 2 * 60 + 100)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_ranks_never_take_more_and_always_send_more(strategy: str) -> None:
    peaks = [memory(strategy, ranks, STEP).peak for ranks in (2, 4, 8, 64)]
    sent = [traffic(strategy, STEP, 1).sent(ranks) for ranks in (1, 2, 4, 8, 64)]
    assert peaks == sorted(peaks, reverse=True)
    assert sent == sorted(sent) and sent[0] == 0


def test_a_step_takes_no_less_than_its_host() -> None:
    """At 10 FLOP and 60 bytes a second, normalisations' at 20: products take .1 + .1 s, the others' 3 bytes .05, a
    norm's .05; 500 operations of 1 ms. A measured speed has the host's work in it."""
    bound = {Product(1, 5): 1, Product(0, 6): 1}  # by arithmetic, and by memory
    step = replace(STEP, forward=Work(Counter(bound), others=3), backward=Work(idle=1), operations=500)
    words = ["plan.dispatch=1e-3", "plan.tflops=1e-11", "plan.bandwidth=6e-11", "plan.norm_bandwidth=2e-11"]
    machine: Any = OmegaConf.to_object(compose("plan", words).plan)

    def seconds(machine: Any, step: Rehearsal, ranks: int = 1, factor: float = 1.0, **given: Any) -> float:
        return workload(machine, step, given.pop("strategy", "ddp"), 1, factor, **given).seconds(ranks)

    assert seconds(machine, step) == pytest.approx(0.5) and seconds(machine, step, captured=True) == pytest.approx(0.3)
    assert seconds(machine, step, strategy="fsdp2") == pytest.approx(0.5 + 3 * 34e-3)  # two groups, and the rest
    assert seconds(replace(machine, dispatch=1e-4), step) == pytest.approx(0.3)
    assert seconds(replace(machine, dispatch=1e-4, bandwidth=None), step) == pytest.approx(0.1)
    slowest = 1 + JITTER * 1.4236  # the expected largest of eight standard normal draws
    assert seconds(replace(machine, dispatch=1e-4), step, 8) == pytest.approx(0.3 * slowest, rel=1e-3)
    in_fp32 = replace(step, forward=Work(Counter({Product(1, 5, single=True): 1})))  # tf32
    assert seconds(replace(machine, dispatch=1e-4), in_fp32) == pytest.approx(0.25)
    measured = replace(machine, images_per_second=2.0)
    alone = Rehearsals(1, {"di": STEP, "dira": replace(step, images=1)}, "dira", step, step)
    assert measured_factor(machine, alone) == 1 and measured_factor(measured, alone) == pytest.approx(0.5 / 0.3)
    assert seconds(measured, step, 1, measured_factor(measured, alone)) == pytest.approx(0.5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_largest_batch_is_the_last_that_fits(strategy: str) -> None:
    """Activations grow with the images; gradients, states and what stays do not."""

    def step(images: int) -> Rehearsal:
        live = [LiveBytes(b.gradients, b.others * images / 4) for b in STEP.live_in_passes]
        return replace(STEP, images=images, live_in_passes=live)

    def peak(images: int) -> float:
        return memory(strategy, 4, step(images), loader=7.0).peak

    limit = peak(0) + 10_000.0
    actual = largest(strategy, 4, step(4), step(8), limit, loader=7.0)
    assert actual > 30 and peak(actual) <= limit < peak(actual + 1)
    more = step(8)
    more = replace(more, live_in_passes=[*more.live_in_passes, LiveBytes(0, 0)])  # one more operation, without memory
    assert actual <= largest(strategy, 4, step(4), more, limit, loader=7.0) <= 1.05 * actual
    assert largest(strategy, 4, step(4), step(8), peak(1), loader=7.0) == 1
    assert largest(strategy, 4, step(4), step(8), peak(1) - 1, loader=7.0) == 0
    assert largest(strategy, 4, step(4), step(8), peak(0) - 1000, loader=7.0) == 0


@pytest.mark.parametrize(
    ("loader", "codecs", "counted"),
    [("auto", ["jpg", "jp2"], True), ("auto", ["jpg", "png"], False), ("cpu", ["jpg"], False), ("dali", ["png"], True)],
)
def test_the_memory_of_decoding_on_a_gpu_by_hand(loader: str, codecs: list[str], counted: bool) -> None:
    """Images of 300 and 200 pixels of two bytes: 500 decoded and crops of 300, twice; six batches of two views."""
    columns = {"height": [10, 20, 9], "width": [30, 10, 9], "channels": [1, 1, 1], "bits": [16, 8, 8]}
    held = {"column": lambda name: np.array(columns[name]), "rows": lambda split: np.arange(2), "splits": ["train"]}
    dataset: Any = SimpleNamespace(**held, codecs={*codecs})
    data: Any = SimpleNamespace(loader=loader, prefetch=2, split="train")
    actual = decoding_bytes(data, [dataset], ViewSpec(size=64, scale=(0.2, 1.0)))
    assert actual == (pytest.approx(2 * 800 + 6 * 2 * 2 * 64**2) if counted else 0)
