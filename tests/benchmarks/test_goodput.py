import math

import numpy as np
import pytest

from benchmarks.scaling.goodput import Failures

HARD = Failures(mtbf=2000.0, save=60.0, restart=300.0)


def played_through(failures: Failures, interval: float, intervals: int, seed: int) -> float:
    """The goodput of ``intervals`` intervals, failure by failure."""
    random = np.random.default_rng(seed)
    clock, failure = 0.0, random.exponential(failures.mtbf)
    for _ in range(intervals):
        need = interval + failures.save
        while failure < clock + need:  # back to the checkpoint
            clock, failure = failure, failure + random.exponential(failures.mtbf)
            while failure < clock + failures.restart:
                clock, failure = failure, failure + random.exponential(failures.mtbf)
            clock += failures.restart
        clock += need
    return interval * intervals / clock


def daly(failures: Failures) -> float:
    """The higher-order estimate of Daly, Future Gener. Comput. Syst. 22, 2006, eq. 37."""
    ratio = failures.save / (2 * failures.mtbf)
    return failures.young() * (1 + math.sqrt(ratio) / 3 + ratio / 9) - failures.save


@pytest.mark.parametrize("interval", [50.0, 300.0, 1000.0, 4000.0])
def test_goodput_is_what_failures_played_through_leave(interval: float) -> None:
    runs = [played_through(HARD, interval, intervals=3000, seed=seed) for seed in range(5)]
    assert HARD.goodput(interval) == pytest.approx(sum(runs) / 5, rel=0.04)


def test_best_interval_is_where_no_other_is_better() -> None:
    best = HARD.best_interval()
    assert HARD.goodput(best) >= max(HARD.goodput(best * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))


def test_best_interval_approaches_young_and_daly_where_failures_are_rare() -> None:
    rare = Failures(mtbf=1e6, save=10.0, restart=100.0)
    assert rare.best_interval() == pytest.approx(rare.young(), rel=0.005)
    assert rare.best_interval() == pytest.approx(daly(rare), rel=1e-4)
    assert HARD.best_interval() == pytest.approx(daly(HARD), rel=0.005)  # where Young's is 6 % off
    assert HARD.best_interval() == pytest.approx(HARD.young(), rel=0.15)


def test_more_gpus_fail_more_often_and_save_more_often() -> None:
    jobs = [Failures.of(ranks, hours=50_000, save=5.0, restart=300.0) for ranks in (8, 64, 1024)]
    assert [job.mtbf for job in jobs] == [50_000 * 3600 / ranks for ranks in (8, 64, 1024)]
    intervals = [job.best_interval() for job in jobs]
    assert intervals == sorted(intervals, reverse=True)
    goodputs = [job.goodput(job.best_interval()) for job in jobs]
    assert goodputs == sorted(goodputs, reverse=True) and all(0.9 < share < 1 for share in goodputs)


def test_hopeless_is_zero_not_an_overflow() -> None:
    assert HARD.goodput(1e9) == 0.0
    assert math.isfinite(Failures(mtbf=1.0, save=60.0, restart=300.0).best_interval())
