"""The sum that a stage minimises, the views that it corrupts for it, and the random numbers of its steps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dira_scale.data.views import CUTOUT, Distortion, ViewSpec
from dira_scale.distributed.processes import Parallel
from dira_scale.engine.means import Means
from dira_scale.engine.parallel import Strategy
from dira_scale.engine.step import Step
from dira_scale.methods.method import Method, Terms
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.stages import Stage

COUNT = 2


def batch() -> Any:
    """Grey views with one box to cut out, and no other distortion."""
    boxes = torch.zeros(COUNT, 10, 4, dtype=torch.int16)
    boxes[:, 0] = torch.tensor([4, 5, 6, 7])
    ones = torch.ones(COUNT)
    off = {"brightness": ones, "contrast": ones, "contrast_first": ones > 0, "sigma": 0 * ones}
    cut = {"branch": torch.full((COUNT,), CUTOUT, dtype=torch.uint8), "n_boxes": torch.ones(COUNT, dtype=torch.uint8)}
    swaps = torch.zeros(COUNT, 10, 6, dtype=torch.int16)
    distortion = Distortion(**off, **cut, boxes=boxes, swaps=swaps)
    return SimpleNamespace(views=(torch.full((COUNT, 1, 32, 32), 0.5),) * 2, distortions=(distortion,) * 2)


@pytest.mark.parametrize(
    ("terms", "holes"),
    [(["di"], 0), (["re"], 42), (["di", "re"], 42), (["di", "re", "ad"], 42), (["di", "ad"], 42), (["ad"], 42)],
)
def test_views_are_cut_out_where_they_are_restored(terms: list[str], holes: int) -> None:
    method: Any = SimpleNamespace()
    objective = Objective(method, method, ViewSpec(size=32), torch.device("cpu"), "fp32")
    for view in objective.distorted(batch(), Stage(terms=terms, epochs=1)):
        assert (view == 0).sum(dim=(1, 2, 3)).tolist() == [holes] * COUNT
    for view in objective.distorted(batch(), Stage(terms=terms, epochs=1), corrupt=False):
        assert (view == 0.5).all()


@pytest.mark.parametrize(("terms", "total"), [(["di"], 2.0), (["di", "re"], 5.0), (["di", "re", "ad"], 5.007)])
def test_the_total_is_the_weighted_sum_of_the_stages_terms(terms: list[str], total: float) -> None:
    found = {"di": torch.tensor(2.0), "re": torch.tensor(0.3)}
    method: Any = SimpleNamespace(weights={"di": 1.0, "re": 10.0, "ad": 0.001})
    adversary: Any = SimpleNamespace(generator_loss=lambda restored: 7 * restored.mean())
    objective = Objective(method, adversary, ViewSpec(size=32), torch.device("cpu"), "fp32")
    restored = torch.ones(COUNT, 1, 32, 32)
    engine: Any = lambda *_: Terms({k: v for k, v in found.items() if k in terms}, restored=restored)  # noqa: E731
    _, losses = objective(engine, batch(), Stage(terms=terms, epochs=1))
    assert losses["loss"].item() == pytest.approx(total)
    assert {name.removeprefix("loss/") for name in losses} == {"loss", *terms}


def stepping(rate: float) -> tuple[Step, Method, list[float], Any]:
    """A step of two micro-batches of a method whose loss is its one weight, 1, times a random number; the weight moves
    by ``rate``. Also the numbers that will be drawn, and a batch."""

    class Noisy(Method):
        def __init__(self) -> None:
            super().__init__(ViewSpec(size=32), weights={"di": 1.0})
            self.weight = torch.nn.Parameter(torch.ones(()))

    method, drawn = Noisy(), list[float]()

    def objective(engine: object, part: object, stage: object) -> tuple[Terms, dict[str, torch.Tensor]]:
        drawn.append(torch.rand(()).item())
        loss = method.weight * drawn[-1]
        return Terms({"di": loss}), {"loss": loss, "loss/di": loss}

    for name, value in {"method": method, "adversary": None, "device": torch.device("cpu")}.items():
        setattr(objective, name, value)
    config: Any = SimpleNamespace(
        seed=3,
        precision="fp32",
        parallel=SimpleNamespace(accumulate=2),
        health=SimpleNamespace(every=1000),
        optim=SimpleNamespace(clip=None),
    )
    optimizer = torch.optim.SGD(method.parameters(), lr=rate)
    step = Step(config, objective, optimizer, 1, Means())  # type: ignore[arg-type]
    accelerator: Any = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    strategy = Strategy(accelerator, Parallel(accumulate=2, checkpoint_activations=False, compile=False), method)
    strategy.enter_stage(["di"], lambda method: optimizer, {})
    step.enter_stage(Stage(terms=["di"], epochs=1), strategy)
    return step, method, drawn, SimpleNamespace(to=lambda device: SimpleNamespace(split=lambda n: [None] * n))


def test_random_numbers_are_those_of_the_step_whatever_came_before() -> None:
    """Drop-path and the like: another draw for every step and micro-batch, the same when a step comes again."""
    step, _, drawn, two = stepping(rate=0.0)
    for number in (1, 2, 1):
        torch.rand(number)
        step(number, two)
    assert len(set(drawn)) == 4 and drawn[:2] == drawn[4:]


def test_a_step_goes_by_the_mean_gradient_of_its_micro_batches() -> None:
    step, method, drawn, two = stepping(rate=1.0)
    for number in (1, 2):
        step(number, two)
    assert method.weight.item() == pytest.approx(1 - sum(drawn) / 2, abs=1e-6) and len(drawn) == 4
