"""The one row of the plan that a configuration asks for: its own strategy, on the machine in ``plan.*``."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import compose
from dira_scale.forecast.estimate import Estimate, Rehearsals, estimate, rehearse_all
from dira_scale.forecast.shards import planned_inputs
from dira_scale.methods import views_of
from dira_scale.training.schedule import check_division, stage_plans


@dataclass(frozen=True)
class Configured:
    """``row``: as in the table of ``plan``, with hours and price up to ``steps``, the optimizer steps of the run."""

    row: Estimate
    images: int
    steps: int


def planned(words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Of a `pretrain` with these ``words`` on a ``machine``, by the keys of ``plan.*``. Raises UserError as below."""
    cfg = compose("plan", [*words, *(f"plan.{key}={value}" for key, value in machine.items())])
    config: Any = OmegaConf.to_object(cfg)
    return configured_run(config, cfg, partial(rehearse_all, config, cfg))


def configured_run(config: Any, cfg: DictConfig, rehearse: Callable[..., Rehearsals]) -> Configured:
    """The row of a run's own strategy. ``rehearse``: its stages, as ``rehearse_stages`` from its argument ``ranks`` on.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    machine, loading = config.plan, 0.0
    ranks = machine.nodes * machine.gpus
    check_division(config, ranks)
    if config.data.shards is not None:
        machine.images, loading = planned_inputs(config, views_of(cfg), ranks)
    plain = rehearse(ranks, False, lambda: None)
    again = config.parallel.checkpoint_activations
    rehearsed = rehearse(ranks, True, lambda: None) if again else plain
    row = estimate(config, machine, rehearsed, plain, config.parallel.strategy, loading)
    total = sum(plan.steps for plan in stage_plans(config, lambda batch: max(1, machine.images // batch)))
    steps = min(total, config.steps or total)
    share = steps / total
    return Configured(replace(row, hours=row.hours * share, price=row.price * share), machine.images, steps)
