"""The one row of the plan that a configuration asks for: its own strategy, on the machine in ``plan.*``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import compose
from dira_scale.methods import views_of
from dira_scale.planning.config import Machine, Plan
from dira_scale.planning.estimate import Estimate, Rehearsals, estimate, rehearse_all
from dira_scale.planning.shards import planned_inputs
from dira_scale.training.config import StagedTraining
from dira_scale.training.schedule import check_division, stage_plans


@dataclass(frozen=True)
class Configured:
    """``row``: as in the table of ``plan``, with hours and price up to ``steps``, the optimizer steps of the run."""

    row: Estimate
    images: int
    steps: int


def planned(words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Of a `pretrain` with these ``words`` on a ``machine``, by the keys of ``plan.*``. Raises UserError as below."""
    return configured(compose("plan", [*words, *(f"plan.{key}={value}" for key, value in machine.items())]))


def configured(cfg: DictConfig) -> Configured:
    """Rehearse a composed configuration of ``plan``.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Plan)
    machine, loading = config.plan, 0.0
    ranks = machine.nodes * machine.gpus
    check_division(config, ranks)
    if config.data.shards is not None:
        machine.images, loading = planned_inputs(config, views_of(cfg), ranks)
    plain = rehearse_all(config, cfg, ranks, False, lambda: None)
    again = config.parallel.checkpoint_activations
    rehearsed = rehearse_all(config, cfg, ranks, True, lambda: None) if again else plain
    return of_run(config, machine, rehearsed, plain, loading)


def of_run(
    config: StagedTraining, machine: Machine, rehearsed: Rehearsals, plain: Rehearsals, loading: float
) -> Configured:
    """The row of a run's own strategy. ``plain``: without activation checkpointing; ``loading``: as of ``estimate``."""
    row = estimate(config, machine, rehearsed, plain, config.parallel.strategy, loading)
    total = sum(plan.steps for plan in stage_plans(config, lambda batch: max(1, machine.images // batch)))
    steps = min(total, config.steps or total)
    share = steps / total
    return Configured(replace(row, hours=row.hours * share, price=row.price * share), machine.images, steps)
