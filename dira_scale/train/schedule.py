"""Batch and length of every stage, from the configuration and the size of the data. Pure arithmetic."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from statistics import fmean

from dira_scale.base.errors import UserError
from dira_scale.dataset.epochs import NEARLY, longer, steps_of
from dira_scale.train.config import StagedTraining
from dira_scale.train.engine.config import PLATEAU, RUN
from dira_scale.train.engine.task import StagePlan

LEAST, FALLS = 5, 0.05  # of still_falling
MANY_NODES, MANY_RANKS, NEAR = 8, 64, 0.1  # of spare_nodes: from which on one is lost every few weeks; of the batch


def batches_of(config: StagedTraining) -> dict[str, int]:
    """The global batch of every stage that is trained."""
    return {name: stage.batch or config.data.batch for name, stage in config.stages.items() if stage.epochs > 0}


def stage_plans(config: StagedTraining, steps_per_epoch: Callable[[int], int]) -> list[StagePlan]:
    """A plan for every stage that is trained; ``steps_per_epoch`` gives the steps per epoch at a batch size.

    Raises UserError for a warm-up as long as its stage, or longer; for a schedule on a held-out loss that is not there.
    """
    if config.optim.schedule == PLATEAU and config.data.val_split is None:
        raise UserError(
            f"optim.schedule={PLATEAU}: the rate falls with the validation loss, and data.val_split=null has none: "
            "name a split, or use another schedule"
        )
    plans: list[StagePlan] = []
    for name, batch in batches_of(config).items():
        stage, warmup = config.stages[name], config.optim.warmup_epochs
        if warmup and warmup >= stage.epochs:
            raise UserError(
                f"optim.warmup_epochs={warmup:g} is not shorter than stages.{name}.epochs={stage.epochs:g}: every "
                "stage has its own warm-up; use a shorter warm-up or a longer stage"
            )
        per_epoch = steps_per_epoch(batch)
        steps = steps_of(stage.epochs * config.epoch_factor, per_epoch)
        falls, epoch = config.optim.step_epochs, config.epoch_factor * per_epoch
        many = isinstance(falls, list)
        period = tuple(round(fall * epoch) for fall in falls) if many else max(1, round(falls * epoch))
        plans.append(
            StagePlan(
                name=name,
                batch=batch,
                steps=steps,
                per_epoch=per_epoch,
                terms=tuple(stage.terms),
                warmup=min(steps - 1, round(warmup * config.epoch_factor * per_epoch)),
                period=period,
                size=getattr(stage, "size", None),  # of pretraining
                patience=stage.patience,
            )
        )
    if config.optim.span == RUN:  # counted in epochs, as stages may have other batches
        starts = [*accumulate((plan.steps / plan.per_epoch for plan in plans), initial=0.0)]
        plans = [
            replace(plan, span=(round(start * plan.per_epoch), round(starts[-1] * plan.per_epoch)))
            for plan, start in zip(plans, starts, strict=False)
        ]
    return plans


def few_steps(config: StagedTraining, plans: Sequence[StagePlan], nearly: float = NEARLY) -> list[str]:
    """A line if the experiment is known to need more steps than are planned, as with few images; ``nearly`` all do."""
    planned, enough = sum(plan.steps for plan in plans), config.enough_steps
    factor = longer(planned, enough, config.epoch_factor, nearly)
    if factor is None:
        return []
    return [
        f"few steps: {planned} are planned, and this experiment needed {enough} to learn: "
        f"epoch_factor={factor:g} plans as many"
    ]


def still_falling(losses: Sequence[float]) -> float:
    """Return by which share a training loss falls over its last third; 0 unless it does so beyond doubt.

    ``losses``: as logged, of equally many steps each. Beyond doubt: at least five are in the last third, Mann and
    Kendall's trend test has z < -2.4 (of noise without a trend less than 1 in 100 has), and the last third of these is
    on average 5 % below their first.
    """
    last = losses[-(len(losses) // 3) :] if len(losses) >= 3 * LEAST else []
    n = len(last)
    falls = sum((a > b) - (a < b) for i, a in enumerate(last) for b in last[i + 1 :])
    if not last or falls <= 2.4 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18):
        return 0.0
    first, end = fmean(last[: n // 3]), fmean(last[-(n // 3) :])
    return fall if (fall := (first - end) / abs(first)) > FALLS else 0.0


def check_division(config: StagedTraining, ranks: int) -> None:
    """Raise ``UserError`` if batch, lanes or BatchNorm groups of a stage do not divide among ``ranks`` processes."""
    for batch, groups in sorted(groups_of(config).items()):
        if problems := _problems(config, batch, groups, ranks):
            counts = ", ".join(map(str, process_counts(config)))
            advice = (
                f"numbers of processes that fit: {counts}"
                if counts
                else "no number of processes fits, change one of these keys"
            )
            raise UserError(f"{'; '.join(problems)}; {advice}")


def process_counts(config: StagedTraining) -> list[int]:
    """The numbers of processes among which every stage can be divided."""
    groups = groups_of(config)
    numbers = range(1, min(groups) + 1)
    return [n for n in numbers if not any(_problems(config, batch, count, n) for batch, count in groups.items())]


def spare_nodes(config: StagedTraining, ranks: int, nodes: int) -> list[str]:
    """Return a line if another batch, near that of all stages, fits more processes than it does where some of many
    ``nodes``, at most a quarter, are lost."""
    (batch, *others), parts = {*batches_of(config).values()}, ranks * config.parallel.accumulate
    if others or (nodes < MANY_NODES and ranks < MANY_RANKS):
        return []
    left = [node * ranks // nodes for node in range(nodes - 1, 0, -1) if 4 * node >= 3 * nodes]

    def fitting(batch: int) -> list[int]:
        with suppress(UserError):
            groups = config.bn_groups(batch)
            fits = [count for count in (ranks, *left) if not _problems(config, batch, groups, count)]
            return fits[1:] if fits[:1] == [ranks] else []
        return []

    near = [parts * i for i in range(1, 2 * batch // parts) if abs(parts * i - batch) <= NEAR * batch]
    best = max(near, key=lambda other: (fitting(other)[:1], -abs(other - batch)), default=batch)
    now, then = (", ".join(map(str, fitting(each))) for each in (batch, best))
    if fitting(best)[:1] <= fitting(batch)[:1]:
        return []
    return [
        f"should nodes be lost, data.batch={batch} fits {now or 'no number'} of the {left[-1]} to {left[0]} processes "
        f"that are left, data.batch={best} would fit {then}"
    ]


def groups_of(config: StagedTraining) -> dict[int, int]:
    """The number of BatchNorm groups by global batch; 0 if there are none, or if the batch does not divide into them,
    which is reported when the stage is built."""
    groups = dict.fromkeys(batches_of(config).values(), 0)
    for batch in groups:
        with suppress(UserError):
            groups[batch] = config.bn_groups(batch)
    return groups


def _problems(config: StagedTraining, batch: int, groups: int, ranks: int) -> list[str]:
    accumulate, lanes = config.parallel.accumulate, config.data.lanes or batch
    parts = ranks * accumulate
    over = f"{ranks} ranks x parallel.accumulate={accumulate}"
    problems = []
    if batch % parts:
        problems.append(f"data.batch={batch} is not divisible by {over}")
    if lanes % ranks:
        problems.append(f"data.lanes={lanes} is not divisible by {ranks} ranks")
    if groups > 0 and groups % parts and not (accumulate == 1 and ranks % groups == 0):
        problems.append(f"the {groups} BatchNorm groups of data.batch={batch} cannot be divided among {over}")
    return problems
