"""Validation of any task: here of a line through held-out numbers, batches of unequal weight; dealt to ranks, every
sample counts once."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from train.engine.regression import STAGES, Regression, Samples, samples

from dira_scale.fleet.forecast.network import fake_world
from dira_scale.train.engine.state import RunState
from dira_scale.train.held_out import DistributedEvalOrder
from dira_scale.train.validation import HeldOutValidation


class Batches:
    """Batches of 4, 6 and 4 numbers; the last batch is another rank's, and does not count."""

    def __init__(self) -> None:
        self.parts = [samples(seed, count) for seed, count in enumerate((4, 6, 4))]

    def batches(self) -> Iterator[tuple[Samples, int]]:
        yield from zip(self.parts, (4, 6, 0), strict=True)


class Largest:
    """A score of all samples at once."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def add(self, batch: Samples, losses: Any, count: int) -> None:
        self.seen.append(batch.y[:count])

    def values(self) -> dict[str, float]:
        return {"largest": float(torch.cat(self.seen).max())}


def test_means_weigh_samples_and_scores_see_all_that_count() -> None:
    task, held_out = Regression(fake_world("fp32")), Batches()
    validation = HeldOutValidation(1, held_out, task.losses, torch.device("cpu"), [Largest])
    x, y = (torch.cat([getattr(part, name) for part in held_out.parts[:2]]) for name in "xy")
    for _ in range(2):  # scores begin anew
        means = validation.means(STAGES[0], task.module.train())
        assert means["loss"] == pytest.approx(float((task.module(x)[:, 0] - y).detach().square().mean()), rel=1e-6)
        assert means["largest"] == float(y.max())
    assert task.module.training and all(p.grad is None for p in task.module.parameters())
    assert validation.first_broken(STAGES[0], task.module) is None


def test_the_first_batch_whose_loss_is_not_finite_is_given_as_loaded_and_all_are_gone_through() -> None:
    task, held_out, modes = Regression(fake_world("fp32")), Batches(), list[bool]()

    def losses(stage: Any, module: nn.Module, batch: Samples) -> Any:
        modes.append(module.training)
        return task.losses(stage, module, batch)

    held_out.parts[1].x[0] = math.inf
    held_out.parts[2].x[0] = math.nan
    broken = HeldOutValidation(1, held_out, losses, torch.device("cpu")).first_broken(STAGES[0], task.module)
    assert broken is not None and broken[0] is held_out.parts[1]
    assert broken[1].keys() == {"loss", "loss/square"} and not math.isfinite(broken[1]["loss"])
    assert modes == [False] * 3


@pytest.mark.parametrize(
    ("direction", "improved"), [("min", [True, True, False, False]), ("max", [True, False, True, False])]
)
def test_the_best_step_of_a_stage_is_that_of_the_least_or_the_largest_figure(
    direction: Literal["min", "max"], improved: list[bool]
) -> None:
    state, seen = RunState(), []
    for state.step, value in enumerate((0.5, 0.2, 0.9, 0.5)):
        seen.append(state.improve("only", value, 2, direction))
    assert seen == improved and state.best_step == {"only": max(i for i, better in enumerate(improved) if better)}
    assert state.best == {"only": 0.2 if direction == "min" else 0.9}
    assert state.stale == 2 * improved[::-1].index(True)
    state.advance(4, 2)
    assert (state.stage, state.stale, state.epochs) == (1, 0, 2)  # the next stage begins to count


def test_the_moving_average_is_of_a_stage() -> None:
    state, values, expected = RunState(), [0.5, 0.1, 0.9], [0.5, 0.46, 0.504]
    assert [state.averaged(value, 0.9) for value in values] == pytest.approx(expected)
    resumed = RunState(**asdict(state))
    assert resumed.averaged(0.3, 0.9) == pytest.approx(0.9 * 0.504 + 0.1 * 0.3)
    resumed.advance(3, 1)
    assert resumed.averaged(0.2, 0.9) == 0.2


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("size", "batch"), [(12, 5), (64, 64), (65, 64), (3, 8)])
def test_every_sample_counts_once_and_all_ranks_do_as_much(size: int, batch: int, ranks: int) -> None:
    whole = -(-size // batch)
    seen: list[int] = []
    shares = [DistributedEvalOrder(size, batch, whole, rank, ranks) for rank in range(ranks)]
    assert len({share.steps for share in shares}) == 1
    for share in shares:
        for step in range(share.steps):
            positions = share.batch_at(step)
            assert len(positions.index) > 0
            if share.counts(step):
                seen.extend(positions.index.tolist())
    assert sorted(seen) == list(range(size))


def test_a_limit_takes_the_first_batches() -> None:
    shares = [DistributedEvalOrder(100, 10, 3, rank, 2) for rank in range(2)]
    seen = [s.batch_at(k).index for s in shares for k in range(s.steps) if s.counts(k)]
    assert sorted(np.concatenate(seen)) == list(range(30))
