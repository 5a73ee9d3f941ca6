"""The one row of the plan that a configuration asks for: its own strategy, on the machine in ``plan.*``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dira_scale.config.compose import compose
from dira_scale.forecast.config import plan_of
from dira_scale.forecast.estimate import Estimate, estimate, rehearse_run
from dira_scale.forecast.shards import planned_inputs
from dira_scale.training.blueprint import blueprint_of
from dira_scale.training.schedule import check_division, stage_plans


@dataclass(frozen=True)
class Configured:
    """``row``: as in the table of ``plan``, with hours and price up to ``steps``, the optimizer steps of the run."""

    row: Estimate
    images: int
    steps: int


def planned(command: str, words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Return the plan of a run of ``command`` with these ``words`` on a ``machine``, by the keys of ``plan.*``.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    cfg = compose(plan_of(command), [*words, *(f"plan.{key}={value}" for key, value in machine.items())])
    blueprint = blueprint_of(command, cfg)
    config, loading = blueprint.config, 0.0
    ranks = config.plan.nodes * config.plan.gpus
    check_division(config, ranks)
    if config.data.shards is not None:
        config.plan.images, loading = planned_inputs(config, blueprint.views, ranks)
    plain = rehearse_run(blueprint, ranks)
    again = config.parallel.checkpoint_activations
    rehearsed = rehearse_run(blueprint, ranks, checkpointing=True) if again else plain
    row = estimate(config, config.plan, rehearsed, plain, config.parallel.strategy, loading)
    total = sum(plan.steps for plan in stage_plans(config, lambda batch: max(1, config.plan.images // batch)))
    steps = min(total, config.steps or total)
    share = steps / total
    return Configured(replace(row, hours=row.hours * share, price=row.price * share), config.plan.images, steps)
