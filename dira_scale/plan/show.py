"""What ``plan`` does: rehearse a run's steps with and without recomputed activations, and show every strategy."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale.errors import UserError
from dira_scale.forecast import here
from dira_scale.forecast.estimate import Rehearsals, estimate, rehearse_all
from dira_scale.forecast.finetuning import rehearse_finetuning
from dira_scale.forecast.shards import planned_inputs
from dira_scale.forecast.strategies import STRATEGIES
from dira_scale.machine.console import Console
from dira_scale.machine.progress import bar
from dira_scale.methods import views_of
from dira_scale.plan.table import WIDTH, as_json, show
from dira_scale.storage.atomic import write_json
from dira_scale.storage.owned import own_file
from dira_scale.training.schedule import batches_of, check_division


def plan_pretrain(cfg: DictConfig) -> None:
    """Print the table of strategies; write its figures to the file ``plan.json``, if set."""
    _plan(cfg, rehearse_all)


def plan_finetune(cfg: DictConfig) -> None:
    """The same of a run of `finetune`, after how long it takes here where there is no GPU."""
    _plan(cfg, rehearse_finetuning, here.line)


def _plan(cfg: DictConfig, rehearse: Callable[..., Rehearsals], on_cpu: Callable[..., str] | None = None) -> None:
    config: Any = OmegaConf.to_object(cfg)
    machine = config.plan
    if machine.json and not Path(machine.json).absolute().parent.is_dir():
        raise UserError(f"plan.json={machine.json}: no such folder: {Path(machine.json).absolute().parent}")
    if machine.json:
        own_file(Path(machine.json), "plan.json", stamp='"heaviest_stage"')
    ranks = machine.nodes * machine.gpus
    check_division(config, ranks)
    loading = 0.0  # bytes per image, on the GPU
    if config.data.shards is not None:
        machine.images, loading = planned_inputs(config, views_of(cfg), ranks)
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with bar("rehearsing", "steps") as shown:
        task = shown.add_task("", total=2 * (len(batches_of(config)) + 1))
        plain = rehearse(config, cfg, ranks, False, partial(shown.advance, task))
        recomputing = rehearse(config, cfg, ranks, True, partial(shown.advance, task))
    cases = [(rehearsed, strategy) for rehearsed in (plain, recomputing) for strategy in STRATEGIES]
    rows = [estimate(config, machine, rehearsed, plain, strategy, loading) for rehearsed, strategy in cases]
    if on_cpu and not torch.cuda.is_available():
        console.print(f"\n{on_cpu(config, machine.images, views_of(cfg).size)}", soft_wrap=True, highlight=False)
        console.print("Below: on the GPUs of machine=… and plan.*", highlight=False)
    show(config, machine, plain, rows, console)
    if machine.json:
        write_json(Path(machine.json), as_json(machine, plain, rows))
        console.print(f"\n{machine.json}", markup=False, highlight=False)
