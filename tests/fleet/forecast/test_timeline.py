from dataclasses import replace

import numpy as np
import pytest

from dira_scale.fleet.forecast.ledger import CollectiveMessage
from dira_scale.fleet.forecast.links import Links, StepTimes, Workload, exposed, slowest
from dira_scale.fleet.forecast.strategies import Traffic


def queue(compute: float, communication: float, buckets: int, before: float = 0.0) -> float:
    """Message by message: ready with its part of the arithmetic, sent after the one before; one is ready at once."""
    sent = before
    for i in range(buckets):
        sent = max(sent, (i + 1) * compute / buckets) + communication / buckets
    return max(0.0, sent - compute)


@pytest.mark.parametrize("buckets", [1, 2, 7, 50])
@pytest.mark.parametrize("communication", [0.0, 0.1, 1.0, 1.5, 8.0])
@pytest.mark.parametrize("before", [0.0, 0.95, 3.0])
def test_what_shows_of_the_communication_is_what_a_queue_of_messages_leaves(
    before: float, communication: float, buckets: int
) -> None:
    """Gradients queue behind asynchronous messages, which begin ``before`` them."""
    assert exposed(1.0, communication, buckets, before) == pytest.approx(queue(1.0, communication, buckets, before))


def test_the_slowest_of_many_draws() -> None:
    random = np.random.default_rng(0)
    for ranks in (1, 2, 8, 64, 512):
        drawn = random.standard_normal((4000, ranks)).max(1)
        assert slowest(ranks) == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 4000**0.5)


def test_a_step_against_processes_played_through() -> None:
    """Each step all ranks draw their speed, the slowest ends the backward pass, then its messages go out."""
    random = np.random.default_rng(1)
    step = StepTimes(forward=1.0, backward=2.0, blocking=0.1, behind=0.4, buckets=4, jitter=0.02)
    draws = 3.0 * (1 + 0.02 * random.standard_normal((20000, 16)).max(1))
    played = draws + 0.1 + queue(2.0, 0.4, 4)
    assert step.seconds(16) == pytest.approx(played.mean(), rel=1e-3)


def test_host_and_control_message_set_the_pace_where_they_outlast_the_device() -> None:
    """Three seconds of arithmetic; the host is late like the device, by the slowest of the ranks."""
    late, step = 1 + 0.02 * slowest(8), StepTimes(forward=1.0, backward=2.0)
    assert replace(step, host=2.9, control=3.0, jitter=0.02).seconds(8) == pytest.approx(3.0 * late)
    bound = replace(step, blocking=0.5, host=4.0, control=3.9, jitter=0.02)
    assert bound.seconds(8) == pytest.approx(4.0 * late) and bound.seconds(1) == 4.0
    assert replace(step, host=4.0, control=6.0).seconds(8) == 6.0


def test_parts_of_a_step_by_hand() -> None:
    """Gradients in two messages of 1 s: the last shows. Keys of 1.5 s before them: 1.5 + 2 of 2 s of backward pass."""
    step = StepTimes(
        forward=1.0, backward=2.0, blocking=0.25, asynchronous=1.5, behind=2.0, buckets=2, host=5.0, control=6.0
    )
    expected = {"arithmetic": 3.0, "stragglers": 0.0, "gradients": 1.0, "asynchronous": 0.5, "blocking": 0.25}
    assert step.parts(8) == expected | {"host": 0.25, "control": 1.0}
    assert step.seconds(8) == 6.0


def test_messages_awaited_later_do_not_block() -> None:
    """A gather takes 0.99 s, an all-to-all 0.5 s: the first is asynchronous; a ring of three hops each way."""
    links = Links(per_node=4, within=100.0, between=1.0, latency_within=0.08, latency_between=5.0)
    messages = [CollectiveMessage("gather", 100, 4, asynchronous=True), CollectiveMessage("all_to_all", 56, 4)]
    work = Workload(links, StepTimes(forward=1, backward=2), Traffic(0, 0, 0, 0, 1), lambda _: messages, control=0.1)
    step = work.step(4)
    assert step.asynchronous == pytest.approx(3 * (100 / 4 / 100 + 0.08))
    assert step.blocking == pytest.approx(3 / 4 * 56 / 100 + 0.08)
    assert step.control == pytest.approx(2 * 3 * 0.1)
    assert work.step(1024).control == pytest.approx(2 * 1023 * 0.1 / 5)  # asked every fifth step
    assert step.seconds(4) == pytest.approx(3.5)


def test_a_step_by_hand() -> None:
    """Two replicas, gradients in two messages over a link so slow that half of the backward pass does not hide them."""
    links = Links(per_node=2, within=100.0, between=1.0, latency_within=0.5, latency_between=0.5)
    moved = Traffic(reduced=200.0, ahead=0, behind=0, after=0, messages=2)
    work = Workload(links, StepTimes(forward=1, backward=2), moved, lambda n: [CollectiveMessage("gather", 100, n)])
    messages = 2 * (2 * (100 / 2 / 100 + 0.5))  # two all-reduces of 100 bytes
    assert work.seconds(2) == pytest.approx(3.0 + (100 / 2 / 100 + 0.5) + messages - 2.0 / 2)
    assert work.seconds(1) == 3.0
    at_once = replace(work, alone=replace(work.alone, beside=0.5))  # which hides as much
    assert at_once.seconds(2) == pytest.approx(3.0 + (100 / 2 / 100 + 0.5) + messages - 0.5)
