"""Goodput: the share of a run's time left after failures and checkpoints, and the best checkpoint interval."""

import math
from dataclasses import dataclass

from scipy.optimize import minimize_scalar


@dataclass(frozen=True)
class Failures:
    """Failures at random (exponential) times; work since the last checkpoint is repeated. All in seconds.

    Attributes:
        mtbf: mean time between failures of the whole job.
        save: for which training pauses at a checkpoint.
        restart: from a failure to the next step; may itself fail.
    """

    mtbf: float
    save: float
    restart: float

    @classmethod
    def of(cls, ranks: int, hours: float, save: float, restart: float) -> "Failures":
        """Of a job that any of ``ranks`` GPUs ends, each failing once in ``hours`` (its machine included)."""
        return cls(3600 * hours / ranks, save, restart)

    def goodput(self, interval: float) -> float:
        """Share of the time that makes progress, with a checkpoint every ``interval`` seconds of training.

        An interval takes M e^(R/M) (e^((t + d)/M) - 1) (Daly, Future Gener. Comput. Syst. 22, 2006, eq. 20).
        """
        exponent = (interval + self.save) / self.mtbf
        if exponent + self.restart / self.mtbf > 700:
            return 0.0
        return interval / (self.mtbf * math.exp(self.restart / self.mtbf) * math.expm1(exponent))

    def best_interval(self) -> float:
        """Seconds of training between checkpoints that maximise the goodput."""
        optimum = minimize_scalar(
            lambda log: -self.goodput(math.exp(log)),
            bounds=(math.log(self.young() / 100), math.log(self.young() * 100)),
            method="bounded",
            options={"xatol": 1e-6},
        )
        return math.exp(optimum.x)

    def young(self) -> float:
        """sqrt(2 d M) (Young, Commun. ACM 17, 1974)."""
        return math.sqrt(2 * self.save * self.mtbf)
