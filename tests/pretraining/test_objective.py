"""The sum that a stage minimises, the views that it corrupts for it, and the random numbers of its steps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dira_scale.data.views import CUTOUT, Distortion, ViewSpec
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.world import World
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.parallel import StageModel
from dira_scale.engine.step import Step
from dira_scale.engine.task import Losses, StagePlan
from dira_scale.methods.method import Terms
from dira_scale.pretraining.objective import Objective

COUNT = 2


def batch() -> Any:
    """Grey views with one box to cut out, and no other distortion."""
    boxes = torch.zeros(COUNT, 10, 4, dtype=torch.int16)
    boxes[:, 0] = torch.tensor([4, 5, 6, 7])
    ones = torch.ones(COUNT)
    off = {"brightness": ones, "contrast": ones, "contrast_first": ones > 0, "sigma": 0 * ones}
    cut = {"branch": torch.full((COUNT,), CUTOUT, dtype=torch.uint8), "n_boxes": torch.ones(COUNT, dtype=torch.uint8)}
    swaps = torch.zeros(COUNT, 10, 6, dtype=torch.int16)
    turned = {"rotation": 0 * ones, "orientations": torch.zeros(COUNT, 0, 3, dtype=torch.uint8)}
    distortion = Distortion(**off, **cut, boxes=boxes, swaps=swaps, **turned)
    return SimpleNamespace(views=(torch.full((COUNT, 1, 32, 32), 0.5),) * 2, distortions=(distortion,) * 2)


WORLD = World(SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0), "fp32")  # type: ignore[arg-type]


def objective_of(adversary: Any = None) -> Objective:
    return Objective({"di": 1.0, "re": 10.0, "ad": 0.001}, adversary, ViewSpec(size=32), WORLD)


@pytest.mark.parametrize(
    ("terms", "holes"),
    [(["di"], 0), (["re"], 42), (["di", "re"], 42), (["di", "re", "ad"], 42), (["di", "ad"], 42), (["ad"], 42)],
)
def test_views_are_cut_out_where_they_are_restored(terms: list[str], holes: int) -> None:
    objective = objective_of()
    for view in objective.distorted(batch(), terms):
        assert (view == 0).sum(dim=(1, 2, 3)).tolist() == [holes] * COUNT
    for view in objective.distorted(batch(), terms, corrupt=False):
        assert (view == 0.5).all()


@pytest.mark.parametrize(("terms", "total"), [(["di"], 2.0), (["di", "re"], 5.0), (["di", "re", "ad"], 5.007)])
def test_the_total_is_the_weighted_sum_of_the_stages_terms(terms: list[str], total: float) -> None:
    found = {"di": torch.tensor(2.0), "re": torch.tensor(0.3)}
    adversary: Any = SimpleNamespace(generator_loss=lambda restored: 7 * restored.mean())
    objective = objective_of(adversary)
    restored = torch.ones(COUNT, 1, 32, 32)
    engine: Any = lambda *_: Terms({k: v for k, v in found.items() if k in terms}, restored=restored, target=restored)  # noqa: E731
    losses = objective(engine, batch(), terms).values()
    assert losses["loss"].item() == pytest.approx(total)
    assert {name.removeprefix("loss/") for name in losses} == {"loss", *terms}


def stepping(rate: float) -> tuple[Step, nn.Module, list[float], Any]:
    """A step of two micro-batches of a module whose loss is its one weight, 1, times a random number; the weight moves
    by ``rate``. Also the numbers that will be drawn, and a batch."""
    module, drawn = nn.Linear(1, 1, bias=False), list[float]()
    nn.init.ones_(module.weight)

    def losses(stage: object, model: nn.Module, micro: object) -> Losses:
        drawn.append(torch.rand(()).item())
        loss = module.weight.sum() * drawn[-1]
        return Losses(loss, {"di": loss})

    task: Any = SimpleNamespace(
        losses=losses,
        side_modules=[],
        monitor_every=1000,
        optim=SimpleNamespace(clip=None),
        after_step=lambda module: None,
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    model = StageModel(WORLD, module, lambda module: module, lambda module: optimizer, {})
    plan, guard = StagePlan("di", 2, 1, 1), NaNGuard(torch.device("cpu"))
    step = Step(task, plan, model, guard, LossScale(False), Means(), seed=3, accumulate=2)
    return step, module, drawn, SimpleNamespace(to=lambda device: SimpleNamespace(split=lambda n: [None] * n))


def test_random_numbers_are_those_of_the_step_whatever_came_before() -> None:
    """Drop-path and the like: another draw for every step and micro-batch, the same when a step comes again."""
    step, _, drawn, two = stepping(rate=0.0)
    for number in (1, 2, 1):
        torch.rand(number)
        step(number, two)
    assert len(set(drawn)) == 4 and drawn[:2] == drawn[4:]


def test_a_step_goes_by_the_mean_gradient_of_its_micro_batches() -> None:
    step, module, drawn, two = stepping(rate=1.0)
    for number in (1, 2):
        step(number, two)
    assert module.weight.item() == pytest.approx(1 - sum(drawn) / 2, abs=1e-6) and len(drawn) == 4
