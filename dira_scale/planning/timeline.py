"""How long a step of many processes takes: arithmetic of the slowest, and the communication that it does not hide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from dira_scale.planning.ledger import Collective
from dira_scale.planning.links import Links
from dira_scale.planning.strategies import Traffic


@dataclass(frozen=True)
class StepTimes:
    """One optimizer step; all times in seconds.

    Attributes:
        forward, backward: a rank's arithmetic, of all micro-batches; ``backward`` includes the optimizer.
        blocking: blocking collectives (keys, BatchNorm statistics, the discriminator's gradients).
        ahead: collectives that the forward pass can hide: parameters gathered while earlier layers compute.
        behind: collectives that the backward pass can hide: gradients, and parameters gathered again.
        buckets: number of equal messages that those are split into.
        loader: to load a batch.
        jitter: standard deviation of a rank's arithmetic, as a share of it.
    """

    forward: float
    backward: float
    blocking: float = 0.0
    ahead: float = 0.0
    behind: float = 0.0
    buckets: int = 1
    loader: float = 0.0
    jitter: float = 0.0

    def seconds(self, ranks: int) -> float:
        """Expected seconds per step of ``ranks`` processes that wait for one another, or of a slower loader."""
        arithmetic = (self.forward + self.backward) * (1 + self.jitter * slowest(ranks))
        return max(self.loader, arithmetic + self.blocking + self.exposed)

    @property
    def exposed(self) -> float:
        """Seconds of ``ahead`` and ``behind`` that arithmetic does not hide."""
        return exposed(self.forward, self.ahead, self.buckets) + exposed(self.backward, self.behind, self.buckets)


@dataclass(frozen=True)
class Workload:
    """The work of one GPU, and its traffic with the others.

    Attributes:
        alone: a step on one GPU.
        traffic: of parameters and gradients; arithmetic may hide it.
        messages: the method's blocking collectives, by the number of GPUs.
    """

    links: Links
    alone: StepTimes
    traffic: Traffic
    messages: Callable[[int], Sequence[Collective]] = lambda ranks: ()

    def step(self, ranks: int) -> StepTimes:
        """A step on ``ranks`` GPUs."""
        traffic, gather, reduce = self.traffic, self.links.gather, self.links.all_reduce

        def total(count: float, collective: Callable[[float, int], float]) -> float:
            return traffic.messages * collective(count / traffic.messages, ranks) if count else 0.0

        return replace(
            self.alone,
            blocking=sum(map(self.links.seconds, self.messages(ranks))) + total(traffic.after, gather),
            ahead=total(traffic.ahead, gather),
            behind=total(traffic.behind, gather) + total(traffic.reduced, reduce),
            buckets=traffic.messages,
        )

    def seconds(self, ranks: int) -> float:
        """Seconds per step on ``ranks`` GPUs."""
        return self.step(ranks).seconds(ranks)


def exposed(compute: float, communication: float, buckets: int) -> float:
    """Seconds by which ``communication`` outlasts the ``compute`` that it overlaps with.

    Message i of n is sent when the i-th part of the arithmetic is done and message i - 1 is out. On fast links only the
    last message is exposed; on slow ones, all but what n - 1 parts of the arithmetic hide. (Parameters gathered ahead
    of a forward pass are the same in reverse.)
    """
    return max(communication / buckets, communication - compute * (1 - 1 / buckets)) if communication else 0.0


def slowest(ranks: int) -> float:
    """Expected largest of ``ranks`` standard normal draws."""
    z = np.linspace(-9.0, 9.0, 7201)
    below = ndtr(z) ** ranks  # the probability that all are below z
    return float(np.trapezoid(np.where(z > 0, 1 - below, -below), z)) if ranks > 1 else 0.0
