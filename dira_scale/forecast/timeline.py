"""How long a step of many processes takes: arithmetic of the slowest, and the communication that it does not hide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from dira_scale.engine.signals import interval
from dira_scale.forecast.ledger import Collective
from dira_scale.forecast.links import Links
from dira_scale.forecast.strategies import Traffic


@dataclass(frozen=True)
class StepTimes:
    """One optimizer step; all times in seconds.

    Attributes:
        forward, backward: a rank's arithmetic, of all micro-batches; ``backward`` includes the optimizer.
        blocking: blocking collectives (BatchNorm statistics, the discriminator's gradients).
        asynchronous: collectives that start with the backward pass and are awaited at its end (keys).
        ahead: collectives that the forward pass can hide: parameters gathered while earlier layers compute.
        behind: collectives that the backward pass can hide: gradients, and parameters gathered again.
        buckets: number of equal messages that those are split into.
        host: of a rank's host, to launch what the device computes; it works ahead of the device.
        control: of the processes' message whether a signal arrived; it is sent in a step and awaited in the next, or
            its share of the steps in between.
        jitter: standard deviation of a rank's arithmetic and host work, as a share of it.
    """

    forward: float
    backward: float
    blocking: float = 0.0
    asynchronous: float = 0.0
    ahead: float = 0.0
    behind: float = 0.0
    buckets: int = 1
    host: float = 0.0
    control: float = 0.0
    jitter: float = 0.0

    def seconds(self, ranks: int) -> float:
        """Expected seconds per step of ``ranks`` processes that wait for one another, or of what takes longer than
        their devices."""
        return sum(self.parts(ranks).values())

    def parts(self, ranks: int) -> dict[str, float]:
        """Where these seconds go. The last two: by how much each outlasts the device and those before it."""
        arithmetic, late = self.forward + self.backward, self.jitter * slowest(ranks)
        gradients = replace(self, asynchronous=0.0).exposed
        parts = {
            "arithmetic": arithmetic,
            "stragglers": arithmetic * late,
            "gradients": gradients,
            "asynchronous": self.exposed - gradients,
            "blocking": self.blocking,
        }
        for name, seconds in {"host": self.host * (1 + late), "control": self.control}.items():
            parts[name] = max(0.0, seconds - sum(parts.values()))
        return parts

    @property
    def exposed(self) -> float:
        """Seconds of ``ahead``, ``asynchronous`` and ``behind`` that arithmetic does not hide."""
        ahead = exposed(self.forward, self.ahead, self.buckets)
        return ahead + exposed(self.backward, self.behind, self.buckets, self.asynchronous)


@dataclass(frozen=True)
class Workload:
    """The work of one GPU, and its traffic with the others.

    Attributes:
        alone: a step on one GPU.
        traffic: of parameters and gradients; arithmetic may hide it.
        messages: the method's collectives, by the number of GPUs.
        control: seconds per hop of the ring in which gloo passes on whether a signal arrived.
    """

    links: Links
    alone: StepTimes
    traffic: Traffic
    messages: Callable[[int], Sequence[Collective]] = lambda ranks: ()
    control: float = 0.0

    def step(self, ranks: int) -> StepTimes:
        """A step on ``ranks`` GPUs."""
        traffic, gather, reduce = self.traffic, self.links.gather, self.links.all_reduce
        messages = self.messages(ranks)

        def total(count: float, collective: Callable[[float, int], float]) -> float:
            return traffic.messages * collective(count / traffic.messages, ranks) if count else 0.0

        def own(asynchronous: bool) -> float:
            return sum(self.links.seconds(message) for message in messages if message.asynchronous == asynchronous)

        return replace(
            self.alone,
            blocking=own(asynchronous=False) + total(traffic.after, gather),
            asynchronous=own(asynchronous=True),
            ahead=total(traffic.ahead, gather),
            behind=total(traffic.behind, gather) + total(traffic.reduced, reduce),
            buckets=traffic.messages,
            control=2 * (ranks - 1) * self.control / interval(ranks),  # a ring, however small the message
        )

    def seconds(self, ranks: int) -> float:
        """Seconds per step on ``ranks`` GPUs."""
        return self.step(ranks).seconds(ranks)


def exposed(compute: float, communication: float, buckets: int, before: float = 0.0) -> float:
    """Seconds by which ``communication`` outlasts the ``compute`` that it overlaps with.

    Message i of n is sent when the i-th part of the arithmetic is done and message i - 1 is out. On fast links only the
    last message is exposed; on slow ones, all but what n - 1 parts of the arithmetic hide. (Parameters gathered ahead
    of a forward pass are the same in reverse.) Other messages of ``before`` seconds come first, and wait for nothing.
    """
    behind = max(communication / buckets, communication - compute * (1 - 1 / buckets)) if communication else 0.0
    return max(behind, before + communication - compute)


def slowest(ranks: int) -> float:
    """Expected largest of ``ranks`` standard normal draws."""
    z = np.linspace(-9.0, 9.0, 7201)
    below = ndtr(z) ** ranks  # the probability that all are below z
    return float(np.trapezoid(np.where(z > 0, 1 - below, -below), z)) if ranks > 1 else 0.0
