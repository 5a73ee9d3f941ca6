"""How long a step of many processes takes: arithmetic, what of the communication is not hidden by it, the slowest."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr


@dataclass(frozen=True)
class StepTimes:
    """One optimizer step; all times in seconds.

    Attributes:
        forward, backward: a rank's arithmetic, of all micro-batches; the optimizer's part is in ``backward``.
        blocking: collectives that everything waits for (keys, BatchNorm statistics, the discriminator's gradients).
        ahead: collectives that the forward pass hides: parameters gathered while the layers before compute.
        behind: collectives that the backward pass hides: gradients, and parameters gathered again.
        buckets: into how many equal messages those are cut.
        loader: in which a batch is ready.
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
        """Expected, of ``ranks`` processes that wait for one another; a slow loader sets the pace of all."""
        arithmetic = (self.forward + self.backward) * (1 + self.jitter * slowest(ranks))
        return max(self.loader, arithmetic + self.blocking + self.exposed)

    @property
    def exposed(self) -> float:
        """What of the hidden collectives nevertheless shows."""
        return exposed(self.forward, self.ahead, self.buckets) + exposed(self.backward, self.behind, self.buckets)


def exposed(compute: float, communication: float, buckets: int) -> float:
    """Seconds by which ``communication`` ends after the ``compute`` it runs beside.

    Message i of n leaves when the i-th part of the arithmetic is done and the message before has gone: with fast links
    the last message alone shows, with slow ones all but what n - 1 parts of the arithmetic hide. (Parameters gathered
    ahead of a forward pass are the same film run backwards.)
    """
    return max(communication / buckets, communication - compute * (1 - 1 / buckets)) if communication else 0.0


def slowest(ranks: int) -> float:
    """Expected largest of ``ranks`` standard normal draws."""
    z = np.linspace(-9.0, 9.0, 7201)
    below = ndtr(z) ** ranks  # the probability that all are below z
    return float(np.trapezoid(np.where(z > 0, 1 - below, -below), z)) if ranks > 1 else 0.0
