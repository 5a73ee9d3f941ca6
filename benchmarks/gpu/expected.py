"""What a CPU expects of a step: rehearsed on tensors without memory, for the planner's machine.

One process, beside those that measure: a step's arithmetic at the speeds of ``plan.*``, its operations at
``plan.dispatch``, its memory. ``plan.tflops`` is bf16's; IEEE fp32 is bound by its own peak.
"""

import torch

from benchmarks.gpu import compiling, graph, traces
from benchmarks.gpu.basics import peak
from benchmarks.gpu.items import absent
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import EXPECTED, Job
from benchmarks.gpu.steps import PARTS
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.machine.hardware import hardware
from dira_scale.base.storage.atomic import write_json
from dira_scale.fleet.forecast import strategies
from dira_scale.train.engine.parallel import checkpoint_activations
from dira_scale.train.planned import plan_of

REACHED = 0.6  # of a peak, by products alone: an estimate


def machine() -> str:
    """The planner's machine that is most like this one, found without a context on its GPU."""
    return "a100" if any("A100" in gpu.name for gpu in hardware().gpus) else "h200"


def of(command: str, *overrides: str) -> dict[str, float]:
    """A step's ``ms``, ``graph ms``, ``host ms``, ``forward ms``, ``GiB`` and ``TFLOP``."""
    from dira_scale.fleet.forecast.estimate import arithmetic, prepared, workload  # need pyarrow
    from dira_scale.fleet.forecast.network import fake_task
    from dira_scale.fleet.forecast.rehearsal import rehearse

    given = f"machine={machine()}", "plan.gpus=1", "plan.nodes=1"
    blueprint, ranks, *_ = prepared(command, compose(plan_of(command), [*overrides, *given]))
    config, fake = blueprint.config, fake_task(blueprint)
    if config.parallel.checkpoint_activations:
        checkpoint_activations(fake.task.module)
    plan, strategy, accumulate = fake.stages[-1], config.parallel.strategy, config.parallel.accumulate
    step = rehearse(fake, plan, plan.batch, accumulate)
    if config.precision == "fp32" and (most := peak(machine().upper(), "fp32")):
        config.plan.tflops = 2 * REACHED * most  # the planner takes fp32 for half as fast as this
    return {
        "ms": 1e3 * workload(config.plan, step, strategy, accumulate).seconds(ranks),
        "graph ms": 1e3 * workload(config.plan, step, strategy, accumulate, captured=True).seconds(ranks),
        "host ms": 1e3 * strategies.operations(strategy, step) * config.plan.dispatch,
        "forward ms": 1e3 * arithmetic(config.plan, step.forward),
        "GiB": strategies.memory(strategy, ranks, step).peak / 2**30,
        "TFLOP": (step.forward + step.backward).flops / 1e12,
    }


def run(job: Job) -> bool:
    """All that is measured, but for parts that are left out, into a file beside the report, written anew after each."""
    if package := absent("pyarrow"):
        print(f"nothing is expected: {package} is missing")
        return True
    torch.set_num_threads(1)
    found = dict[str, dict[str, float]]()
    wanted = [rungs for part, rungs in PARTS.items() if part not in ("known", "volumes") or part in job.parts]
    each = [(rung.recipe, rung.keys) for rungs in wanted for rung in rungs if not rung.authors]
    each += [(recipe, tuple(keys)) for recipe, *keys in (*graph.RECIPES.values(), *traces.RECIPES.values())]
    each += [*compiling.RECIPES.items(), ("masks in 3D", ())]
    for given in dict.fromkeys(words(recipe, job.rehearse, *keys) for recipe, keys in each):
        try:
            found[" ".join(given)] = of(*given)
        except UserError as error:  # it costs no other
            print(f"{' '.join(given)}: {error}")
        write_json(job.report.file.with_name(EXPECTED), found)
    return True
