"""What ``plan`` does: rehearse a run's steps with and without recomputed activations, and show every strategy."""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from dira_scale.errors import UserError
from dira_scale.forecast.estimate import estimate, rehearse_run
from dira_scale.forecast.shards import planned_inputs
from dira_scale.forecast.strategies import STRATEGIES
from dira_scale.machine.console import Console
from dira_scale.machine.progress import bar
from dira_scale.plan.table import WIDTH, as_json, show
from dira_scale.storage.atomic import write_json
from dira_scale.storage.owned import own_file
from dira_scale.training.blueprint import blueprint_of
from dira_scale.training.schedule import batches_of, check_division


def show_plan(command: str, cfg: DictConfig) -> None:
    """Print the table of strategies of a run of ``command``, after how long it takes here where there is no GPU and
    that can be said; write the figures to the file ``plan.json``, if set."""
    blueprint = blueprint_of(command, cfg)
    config = blueprint.config
    machine = config.plan
    if machine.json and not Path(machine.json).absolute().parent.is_dir():
        raise UserError(f"plan.json={machine.json}: no such folder: {Path(machine.json).absolute().parent}")
    if machine.json:
        own_file(Path(machine.json), "plan.json", stamp='"heaviest_stage"')
    ranks = machine.nodes * machine.gpus
    check_division(config, ranks)
    loading = 0.0  # bytes per image, on the GPU
    if config.data.shards is not None:
        machine.images, loading = planned_inputs(config, blueprint.views, ranks)
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with bar("rehearsing", "steps") as shown:
        task = shown.add_task("", total=2 * (len(batches_of(config)) + 1))
        plain = rehearse_run(blueprint, ranks, False, partial(shown.advance, task))
        recomputing = rehearse_run(blueprint, ranks, True, partial(shown.advance, task))
    cases = [(rehearsed, strategy) for rehearsed in (plain, recomputing) for strategy in STRATEGIES]
    rows = [estimate(config, machine, rehearsed, plain, strategy, loading) for rehearsed, strategy in cases]
    if not torch.cuda.is_available() and (here := blueprint.here(machine.images)):
        console.print(f"\n{here}", soft_wrap=True, highlight=False)
        console.print("Below: on the GPUs of machine=… and plan.*", highlight=False)
    show(config, machine, plain, rows, console)
    if machine.json:
        write_json(Path(machine.json), as_json(machine, plain, rows))
        console.print(f"\n{machine.json}", markup=False, highlight=False)
