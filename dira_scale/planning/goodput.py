"""What failures and checkpoints leave of a run's time, and how often a checkpoint should be written."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar


@dataclass(frozen=True)
class Failures:
    """Failures at random (exponential) times; whatever was done since the last checkpoint is done again. Seconds.

    Attributes:
        mtbf: mean time between two failures of the whole job.
        save: for which training stands still at a checkpoint.
        restart: from a failure to the first step after it; it may fail too.
    """

    mtbf: float
    save: float
    restart: float

    @classmethod
    def of(cls, ranks: int, hours: float, save: float, restart: float) -> "Failures":
        """Of a job that ends with any of ``ranks`` GPUs, each of which fails once in ``hours`` (machine included)."""
        return cls(3600 * hours / ranks, save, restart)

    def goodput(self, interval: float) -> float:
        """Share of the time in which training moves on, with a checkpoint every ``interval`` seconds of it.

        An interval takes M e^(R/M) (e^((t + d)/M) - 1) (Daly, Future Gener. Comput. Syst. 22, 2006, eq. 20).
        """
        exponent = (interval + self.save) / self.mtbf
        if exponent + self.restart / self.mtbf > 700:
            return 0.0
        return interval / (self.mtbf * math.exp(self.restart / self.mtbf) * math.expm1(exponent))

    def best_interval(self) -> float:
        """Seconds between two checkpoints at which the goodput is highest."""
        found = minimize_scalar(
            lambda log: -self.goodput(math.exp(log)),
            bounds=(math.log(self.young() / 100), math.log(self.young() * 100)),
            method="bounded",
            options={"xatol": 1e-6},
        )
        return math.exp(found.x)

    def young(self) -> float:
        """sqrt(2 d M) (Young, Commun. ACM 17, 1974)."""
        return math.sqrt(2 * self.save * self.mtbf)

    def daly(self) -> float:
        """Daly's higher-order estimate (ibid., eq. 37)."""
        if self.save >= 2 * self.mtbf:
            return self.mtbf
        ratio = self.save / (2 * self.mtbf)
        return self.young() * (1 + math.sqrt(ratio) / 3 + ratio / 9) - self.save

    def simulated(self, interval: float, intervals: int, seed: int) -> float:
        """The goodput of ``intervals`` intervals played through, failure by failure."""
        random = np.random.default_rng(seed)
        clock, failure = 0.0, random.exponential(self.mtbf)
        for _ in range(intervals):
            need = interval + self.save
            while failure < clock + need:  # back to the checkpoint, as often as it takes
                clock, failure = failure, failure + random.exponential(self.mtbf)
                while failure < clock + self.restart:
                    clock, failure = failure, failure + random.exponential(self.mtbf)
                clock += self.restart
            clock += need
        return interval * intervals / clock
