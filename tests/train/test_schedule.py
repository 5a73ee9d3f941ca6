"""Stages in steps, and the processes among which they divide, held against brute force."""

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.schedule import (
    check_division,
    few_steps,
    process_counts,
    spare_nodes,
    stage_plans,
    still_falling,
)

IMAGES = 75_312  # of ChestX-ray14 that the paper trains on


def composed(*overrides: str) -> Any:
    return OmegaConf.to_object(compose("pretrain", ["data.shards=somewhere", *overrides]))


@cache
def small() -> DictConfig:
    return compose("pretrain", ["data.shards=somewhere", "experiment=small"])


def config(*overrides: str) -> Any:
    """Composed once: ``overrides`` are of single settings, by their whole names."""
    return OmegaConf.to_object(OmegaConf.merge(small(), OmegaConf.from_dotlist(list(overrides))))


def plans(*overrides: str) -> dict[str, StagePlan]:
    return {plan.name: plan for plan in stage_plans(composed(*overrides), lambda batch: IMAGES // batch)}


@pytest.mark.parametrize(
    ("images", "factor", "printed"),
    [(109, 1.0, "few steps: 84 are planned"), (109, 31, ""), (3000, 1.0, ""), (3000, 0.5, "epoch_factor=1 plans")],
)
def test_a_run_too_short_for_its_recipe_says_so(images: int, factor: float, printed: str) -> None:
    """`small` needed 2,600 steps to learn: 28 epochs of 93."""
    config = composed("experiment=small", f"epoch_factor={factor}")
    planned = stage_plans(config, lambda batch: images // batch)
    lines = few_steps(config, planned)
    assert [printed in line for line in lines] == [True] * bool(printed)
    if images == 109 and printed:
        assert lines[0].endswith("needed 2600 to learn: epoch_factor=31 plans as many")


def test_falls_of_the_rate_are_counted_in_epochs_of_the_stage() -> None:
    words = "optim.schedule=step", "optim.step_epochs=50"
    assert {plan.period for plan in plans(*words, "epoch_factor=0.1").values()} == {5 * (IMAGES // 256)}
    epoch = IMAGES // 128
    assert plans("experiment=c2l", "epoch_factor=0.1")["di"].period == (6 * epoch, 8 * epoch, 10 * epoch)
    for wrong in ("[60,0]", "[60,often]", "often", "true"):
        with pytest.raises(UserError, match=r"optim\.step_epochs.*: expected a number above 0"):
            plans(f"optim.step_epochs={wrong}")
    with pytest.raises(UserError, match=r"optim\.schedule=plateau: .* data\.val_split=null has none: name a split"):
        plans("optim.schedule=plateau", "data.val_split=null")


def test_a_schedule_over_the_run_goes_on_from_stage_to_stage() -> None:
    """One cosine over all steps; in each stage the rate first rises to it, in proportion."""
    stages = plans("experiment=small", "optim.span=run", "optim.warmup_epochs=0.5").values()
    optim, steps = config("optim.span=run").optim, sum(plan.steps for plan in stages)
    rates = [plan.rate(optim, 0.2, step) for plan in stages for step in range(plan.steps)]
    expected = 0.1 * (1 + np.cos(np.pi * np.arange(steps) / steps))
    begun = np.concatenate([np.arange(plan.steps) / (plan.per_epoch // 2) for plan in stages])
    np.testing.assert_allclose(rates, expected * begun.clip(max=1), rtol=1e-12)
    words = "optim.warmup_epochs=0", "optim.schedule=step", "optim.step_epochs=5", "optim.factor=0.1"
    ten = [f"stages.{name}.epochs=10" for name in ("di", "dir", "dira")]
    stages = plans("experiment=small", "optim.span=run", "stages.dira.batch=8", *words, *ten).values()
    optim = config("optim.span=run", *words).optim
    first = [plan.rate(optim, 1.0, 0) for plan in stages]  # in epochs, whatever the batch
    assert first == pytest.approx([1.0, 1e-2, 1e-4]) and [plan.batch for plan in stages] == [32, 32, 8]
    with pytest.raises(UserError, match="span=run: expected stage: schedule plateau starts again in each"):
        plans("optim.span=run", "optim.schedule=plateau")


def test_lengths_of_the_papers_schedule() -> None:
    """294 steps of 256 images an epoch; in the released preset 4,707 of 16 in the last stage."""
    actual = plans("experiment=dira_moco")
    assert {name: (p.batch, p.per_epoch, p.steps, p.warmup) for name, p in actual.items()} == {
        "di": (256, 294, 800 * 294, 0), "dir": (256, 294, 400 * 294, 0), "dira": (256, 294, 400 * 294, 0),
    }  # fmt: skip
    actual = plans("experiment=dira_moco", "preset=released")
    assert {name: (p.batch, p.per_epoch, p.steps) for name, p in actual.items()} == {
        "dir": (256, 294, 1200 * 294), "dira": (16, 4707, 400 * 4707),
    }  # fmt: skip


def test_one_factor_scales_epochs_and_warm_up() -> None:
    actual = plans("experiment=dira_barlow", "epoch_factor=0.1")
    assert {name: (p.steps, p.warmup) for name, p in actual.items()} == {
        "di": (29_400, 294), "dir": (11_760, 294), "dira": (11_760, 294),
    }  # fmt: skip
    tiny = plans("experiment=dira_barlow", "epoch_factor=1e-6")
    assert {(p.steps, p.warmup) for p in tiny.values()} == {(1, 0)}
    with pytest.raises(UserError, match=r"warmup_epochs=10 is not shorter than stages\.dir\.epochs=10"):
        plans("experiment=dira_barlow", "stages.dir.epochs=10")


def _whole(batch: int, lanes: int, groups: int, accumulate: int, ranks: int) -> bool:
    """Deal the samples out, one by one: does each process get whole lanes, and each micro-batch whole groups or, with
    one micro-batch a step, each group whole micro-batches?"""
    parts = ranks * accumulate
    if batch % parts or lanes % ranks:
        return False
    part = [sample * parts // batch for sample in range(batch)]
    group = [sample * groups // batch for sample in range(batch)]
    parts_of_group = [{p for p, g in zip(part, group, strict=True) if g == i} for i in range(groups)]
    groups_of_part = [{g for p, g in zip(part, group, strict=True) if p == i} for i in range(parts)]
    nested = all(len(actual) == 1 for actual in parts_of_group)
    spanning = accumulate == 1 and all(len(actual) == 1 for actual in groups_of_part)
    return nested or spanning


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4, 6])
def test_the_processes_that_fit_are_those_of_brute_force(groups: int, accumulate: int) -> None:
    for batch, lanes in ((24, None), (24, 8), (36, 12), (16, 4)):
        made = config(f"data.batch={batch}", f"data.lanes={lanes or 'null'}", f"parallel.accumulate={accumulate}")
        made.model.bn_groups = groups
        if batch % groups:
            continue  # refused elsewhere, for any number of processes
        expected = [n for n in range(1, batch + 1) if _whole(batch, lanes or batch, groups, accumulate, n)]
        assert process_counts(made) == expected, (batch, lanes)


def test_a_batch_that_fewer_nodes_fit_is_that_of_brute_force() -> None:
    """Of all batches within a tenth: the most nodes that are left, then the nearest."""
    for batch, nodes, each, groups, lanes in product((96, 320, 512), (8, 11, 16), (1, 2), (1, 4), (None, 32)):
        made, ranks = config(f"data.batch={batch}", f"data.lanes={lanes or 'null'}"), nodes * each
        made.model.bn_groups = groups
        left = [each * n for n in range(1, nodes) if 4 * n >= 3 * nodes]

        def most(other: int) -> int:
            fits = [n for n in (ranks, *left) if not other % groups and _whole(other, lanes or other, groups, 1, n)]  # noqa: B023
            return max(fits[1:], default=0) if fits[:1] == [ranks] else 0  # noqa: B023

        best = max(range(1, 2 * batch), key=lambda b: (most(b) * (abs(b - batch) <= batch / 10), -abs(b - batch)))
        lines = spare_nodes(made, ranks, nodes)
        assert bool(lines) == (most(best) > most(batch)), (batch, nodes, each, groups, lanes)
        assert all(f"data.batch={best} would fit {most(best)}" in line for line in lines), (lines, best)


def test_a_thousand_processes_have_a_batch_for_fewer_nodes() -> None:
    (line,) = spare_nodes(config("data.batch=65536"), 1024, 128)
    assert line == (
        "should nodes be lost, data.batch=65536 fits no number of the 768 to 1016 processes that are left, "
        "data.batch=64512 would fit 1008, 896, 768"
    )
    assert spare_nodes(config("data.batch=64512"), 1024, 128) == []
    assert spare_nodes(config("data.batch=56"), 7, 7) == [] == spare_nodes(config("stages.di.batch=64"), 64, 8)


def test_what_does_not_divide_is_one_message_with_what_would() -> None:
    made = config("data.batch=24", "data.lanes=8", "model.bn_groups=4")
    with pytest.raises(UserError) as caught:
        check_division(made, 5)
    assert str(caught.value) == (
        "data.batch=24 is not divisible by 5 ranks x parallel.accumulate=1; data.lanes=8 is not divisible by 5 ranks; "
        "the 4 BatchNorm groups of data.batch=24 cannot be divided among 5 ranks x parallel.accumulate=1; "
        "numbers of processes that fit: 1, 2, 4, 8"
    )
    with pytest.raises(UserError, match=r"data.batch=25 .*no number of processes fits, change one of these keys"):
        check_division(config("data.batch=25", "parallel.accumulate=2", "model.bn_groups=1"), 1)
    check_division(made, 8)


def test_every_stage_must_divide() -> None:
    with pytest.raises(UserError, match=r"data.batch=18 is not divisible by 4 ranks .* that fit: 1, 2, 6$"):
        check_division(config("data.batch=24", "stages.dira.batch=18", "model.bn_groups=2"), 4)


def test_a_loss_still_falls_only_beyond_doubt() -> None:
    """Nothing is said of noise, of a loss that has settled, nor of few values."""
    generator = np.random.default_rng(0)
    flat = [still_falling((1 + 0.2 * generator.standard_normal(n)).tolist()) for n in (15, 40, 200) for _ in range(300)]
    assert np.mean(np.array(flat) > 0) < 0.01
    steps = np.arange(60)
    noise = 0.02 * generator.standard_normal(60)
    assert still_falling((np.exp(-steps / 30) + noise).tolist()) == pytest.approx(1 - np.exp(-14 / 30), abs=0.1)
    assert still_falling((1 - steps / 100).tolist()) > 0.2
    assert still_falling((np.exp(-steps / 5) + 0.5 + noise).tolist()) == 0  # it fell long before
    assert still_falling((1 - steps / 5000).tolist()) == 0  # by less than 5 %
    assert still_falling((1 + steps / 60).tolist()) == still_falling([3.0, 2.0, 1.0] * 4) == still_falling([]) == 0


@pytest.mark.parametrize(
    ("per_epoch", "advice"), [(3, "epoch_factor=1.4 plans"), (4, None), (1, "epoch_factor=4 plans")]
)
def test_fine_tuning_of_fewer_than_200_steps_says_so(per_epoch: int, advice: str | None) -> None:
    """And the advice is enough."""
    given = ["data.shards=none", "stages.finetune.epochs=50"]

    def lines(*words: str) -> list[str]:
        tuned: Any = OmegaConf.to_object(compose("finetune", ["init=random", *given, *words]))
        return few_steps(tuned, stage_plans(tuned, lambda _: per_epoch), nearly=1.0)

    assert [advice in line for line in lines()] == [True] * bool(advice)
    if advice:
        assert not lines(advice.split()[0])
