"""The sum that a stage minimises, the views that it corrupts for it, and the random numbers of its steps."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from train.methods.tiny import Facts

from dira_scale.pretrain.objective import Objective
from dira_scale.pretrain.task import PretrainTask
from dira_scale.train.data.views import CUTOUT, Distortion, ViewSpec
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.means import Means
from dira_scale.train.engine.nan_guard import NaNGuard
from dira_scale.train.engine.parallel import StageModel
from dira_scale.train.engine.step import Step
from dira_scale.train.engine.task import Losses, StagePlan
from dira_scale.train.methods.method import Terms
from dira_scale.train.models.drop_path import DropPath

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
    without = {"tone": torch.zeros(COUNT, 0), "warp": torch.zeros(COUNT, 0)}
    distortion = Distortion(**off, **cut, boxes=boxes, swaps=swaps, **turned, **without)
    return Facts(views=(torch.full((COUNT, 1, 32, 32), 0.5),) * 2, distortions=(distortion,) * 2)


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


class Seen(nn.Module):
    """Its loss, monitor and features are the share of pixels that are not cut out."""

    def forward(self, clean: Any, distorted: Any, _: Any) -> Terms:
        share = (distorted[0] > 0).float().mean()
        return Terms({"di": share, "re": share}, monitors={"top1": share}, pyramids=([share],))


@pytest.mark.parametrize(
    ("stages", "always", "compared"),
    [(["di", "di re"], False, True), (["di re"], False, False), (["di", "di re"], True, False)],
)
def test_held_out_figures_of_stages_are_of_views_that_are_not_corrupted(
    stages: list[str], always: bool, compared: bool
) -> None:
    """Losses are those of training in any case, and figures too if no stage has such views."""
    task: Any = object.__new__(PretrainTask)
    task.objective = objective_of()
    task.objective.corrupted = always
    task.stages = [StagePlan(terms, 2, 1, 1, tuple(terms.split())) for terms in stages]
    losses = task.held_out_losses(task.stages[-1], Seen(), batch())
    cut = pytest.approx(1 - 42 / 32**2)
    assert losses.terms["di"].item() == cut and losses.total.item() == pytest.approx(11 * (1 - 42 / 32**2))
    expected = 1.0 if compared else cut
    assert losses.monitors["top1"].item() == expected and losses.outputs.pyramids[0][0].item() == expected


class Conditional:
    """An adversary that keeps what it is given beside the restored views."""

    validated = True

    def beside(self, restored: Any, distorted: Any, batch: Any) -> tuple[()]:
        self.given = distorted
        return ()

    def generator_loss(self, restored: Any) -> Any:
        return restored.mean()


class Restores(nn.Module):
    def forward(self, clean: Any, distorted: Any, _: Any) -> Terms:
        return Terms({}, restored=distorted[0], target=clean[0])


def test_a_conditional_adversary_gets_no_pixels_that_a_token_hides_from_the_encoder() -> None:
    plain, adversary = batch(), Conditional()
    mask = torch.arange(COUNT * 16).view(COUNT, 4, 4) % 3 == 0
    masked = replace(plain.distortions[0], corruptions={"mask": {"mask": mask}})
    given = Facts(views=plain.views, distortions=(masked, plain.distortions[1]))  # a local crop has none
    weights: Any = {"ad": 0.001}
    objective = Objective(weights, adversary, ViewSpec(size=32), WORLD, hides=True)  # type: ignore[arg-type]
    objective(Restores(), given, ["ad"])  # type: ignore[arg-type]
    hidden = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    first, second = objective.distorted(given, ["ad"])  # type: ignore[arg-type]
    assert (first[hidden] > 0).any() and torch.equal(adversary.given[0], torch.where(hidden, 0.0, first))
    assert torch.equal(adversary.given[1], second)


def rotated_batch() -> Any:
    """Images with one bright row, rotated by 90 degrees one way and the other; the second sample is mirrored."""
    plain, images = batch(), torch.zeros(COUNT, 1, 32, 32)
    images[:, :, 4, 10:20] = 1.0
    distortion = replace(plain.distortions[0], rotation=torch.tensor([90.0, -90.0]))
    flips = torch.tensor([[False, False], [False, True]])
    return Facts(views=(images, images / 2), distortions=(distortion,) * 2, flips=(flips, flips.roll(1, 0)))


def test_clean_views_are_rotated_with_the_input() -> None:
    objective = Objective({}, None, ViewSpec(size=32, rotation=90.0), WORLD)  # type: ignore[arg-type]
    it = rotated_batch()
    for view, clean, distorted in zip(it.views, objective.clean(it), objective.distorted(it, ["di"]), strict=True):
        expected = torch.stack([view[0].rot90(1, (1, 2)), view[1].rot90(-1, (1, 2))])
        torch.testing.assert_close(clean, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(distorted, expected, atol=1e-5, rtol=0)


def test_released_clean_views_are_upright() -> None:
    """As stored: neither rotated nor mirrored, whatever the input is."""
    objective = Objective({}, None, ViewSpec(size=32, rotation=90.0, target_flip="released"), WORLD)  # type: ignore[arg-type]
    it = rotated_batch()
    for view, flip, clean in zip(it.views, it.flips, objective.clean(it), strict=True):
        for i in range(COUNT):
            assert torch.equal(clean[i], view[i].flip(-1) if flip[i, 1] else view[i])
    rotated = objective.distorted(it, ["di"])[0]
    torch.testing.assert_close(rotated[0], it.views[0][0].rot90(1, (1, 2)), atol=1e-5, rtol=0)


def test_clean_views_have_the_inputs_rotation_in_every_precision() -> None:
    """They are made under autocast, where a rotation in 16 bits would be pixels off."""
    images = torch.rand(COUNT, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    distortion = replace(batch().distortions[0], rotation=torch.tensor([10.0, -7.0]))
    it: Any = SimpleNamespace(views=(images,), distortions=(distortion,), lacking=lambda view: None)
    seen: list[Any] = []
    engine: Any = lambda clean, distorted, _: seen.append((clean[0], distorted[0]))  # noqa: E731
    for precision in ("fp32", "bf16"):
        world = World(WORLD.accelerator, precision)
        objective = Objective({}, None, ViewSpec(count=1, size=224, rotation=10.0), world)  # type: ignore[arg-type]
        objective.forward(engine, it, objective.distorted(it, ["di"], corrupt=False))
    (clean, distorted), (again, _) = seen
    torch.testing.assert_close(clean, distorted, atol=1e-5, rtol=0)
    assert torch.equal(clean, again)


def test_clean_views_without_rotation_are_the_loaders_own() -> None:
    it = rotated_batch()
    objective = Objective({}, None, ViewSpec(size=32), WORLD)  # type: ignore[arg-type]
    assert all(a is b for a, b in zip(objective.clean(it), it.views, strict=True))


@pytest.mark.parametrize(("terms", "total"), [(["di"], 2.0), (["di", "re"], 5.0), (["di", "re", "ad"], 5.007)])
def test_the_total_is_the_weighted_sum_of_the_stages_terms(terms: list[str], total: float) -> None:
    actual = {"di": torch.tensor(2.0), "re": torch.tensor(0.3)}
    adversary: Any = SimpleNamespace(validated=True, beside=lambda *_: (), generator_loss=lambda x: 7 * x.mean())
    objective = objective_of(adversary)
    restored = torch.ones(COUNT, 1, 32, 32)
    engine: Any = lambda *_: Terms({k: v for k, v in actual.items() if k in terms}, restored=restored, target=restored)  # noqa: E731
    losses = objective(engine, batch(), terms).values()
    assert losses["loss"].item() == pytest.approx(total)
    assert {name.removeprefix("loss/") for name in losses} == {"loss", *terms}


def test_views_are_a_part_of_a_trace() -> None:
    engine: Any = lambda *_: Terms({"di": torch.tensor(2.0)})  # noqa: E731
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        objective_of()(engine, batch(), ["di"])
    objective_of()(engine, batch(), ["di"])  # without a trace nothing is noted
    assert [event.name for event in trace.events()].count("views") == 1


def stepping(rate: float, accumulate: int = 2) -> tuple[Step, nn.Module, list[float], Any]:
    """A step of 64 samples in micro-batches of a module whose loss is its one weight, 1, times the mean of random
    numbers; the weight moves by ``rate``. Also the numbers that will be drawn, and a batch."""
    module, drawn = nn.Linear(1, 1, bias=False), list[float]()
    nn.init.ones_(module.weight)

    def losses(stage: object, model: nn.Module, micro: object) -> Losses:
        each = DropPath(0.5)(torch.ones(64 // accumulate))
        drawn.extend(each.tolist())
        loss = module.weight.sum() * each.mean()
        return Losses(loss, {"di": loss})

    task: Any = SimpleNamespace(
        losses=losses,
        side_modules=[],
        monitor_every=1000,
        optim=SimpleNamespace(clip=None),
        after_step=lambda module: None,
    )
    optimizer = torch.optim.SGD(module.parameters(), lr=rate)
    model = StageModel(WORLD, module, lambda module: module, lambda module: optimizer)
    plan, guard = StagePlan("di", 2, 1, 1), NaNGuard(torch.device("cpu"))
    step = Step(task, plan, model, guard, LossScale(False), Means(), 3, accumulate, torch.device("cpu"))
    return step, module, drawn, SimpleNamespace(split=lambda n: [SimpleNamespace(to=lambda device: None)] * n)


def test_only_a_micro_batch_at_a_time_becomes_floating_point() -> None:
    step, _, drawn, _ = stepping(rate=0.0)
    moved: list[tuple[int, int]] = []  # samples, and the forward passes before

    def parts(n: int) -> list[SimpleNamespace]:
        rows = torch.zeros(8, dtype=torch.uint8).chunk(n)
        return [SimpleNamespace(to=lambda device, x=x: moved.append((len(x), len(drawn)))) for x in rows]

    step(1, SimpleNamespace(split=parts))  # type: ignore[arg-type]
    assert moved == [(4, 0), (4, 32)]


def test_paths_are_dropped_by_the_step_and_the_position_in_its_batch() -> None:
    """Whatever was drawn before, and into however many micro-batches the batch is cut."""
    step, _, drawn, two = stepping(rate=0.0)
    for number in (1, 2, 1):
        torch.rand(number)
        step(number, two)
    assert drawn[:64] == drawn[128:] != drawn[64:128] and drawn[:32] != drawn[32:64]
    step, _, whole, one = stepping(rate=0.0, accumulate=1)
    step(2, one)
    assert whole == drawn[64:128]


def test_a_step_goes_by_the_mean_gradient_of_its_micro_batches() -> None:
    step, module, drawn, two = stepping(rate=1.0)
    for number in (1, 2):
        step(number, two)
    assert module.weight.item() == pytest.approx(1 - sum(drawn) / 64, abs=1e-6) and len(drawn) == 128
