"""``python -m dira_scale.plan experiment=dira_moco``: memory, traffic, hours and cost of a run, before it starts.

Runs the configured steps on tensors without memory: no data, no GPU, no other processes. Imports torch late, so that
a typing mistake is named within a second.
"""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from dira_scale.config.compose import run_verb
from dira_scale.errors import UserError
from dira_scale.machine.progress import bar
from dira_scale.places.atomic import write_json


def plan(cfg: DictConfig) -> None:
    """Print the table of strategies; write its figures to the file ``plan.json``, if set."""
    from dira_scale.methods import views_of
    from dira_scale.planning.config import Plan
    from dira_scale.planning.estimate import estimate, rehearse_all
    from dira_scale.planning.shards import planned_inputs
    from dira_scale.planning.strategies import STRATEGIES
    from dira_scale.planning.table import WIDTH, as_json, show
    from dira_scale.training.schedule import batches_of, check_division

    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Plan)
    machine = config.plan
    if machine.json and not Path(machine.json).absolute().parent.is_dir():
        raise UserError(f"plan.json={machine.json}: no such folder: {Path(machine.json).absolute().parent}")
    ranks = machine.nodes * machine.gpus
    check_division(config, ranks)
    loading = 0.0  # bytes per image, on the GPU
    if config.data.shards is not None:
        machine.images, loading = planned_inputs(config, views_of(cfg), ranks)
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with bar("rehearsing", "steps") as shown:
        task = shown.add_task("", total=2 * (len(batches_of(config)) + 1))
        plain = rehearse_all(config, cfg, ranks, False, partial(shown.advance, task))
        recomputing = rehearse_all(config, cfg, ranks, True, partial(shown.advance, task))
    cases = [(rehearsed, strategy) for rehearsed in (plain, recomputing) for strategy in STRATEGIES]
    rows = [estimate(config, machine, rehearsed, plain, strategy, loading) for rehearsed, strategy in cases]
    show(config, machine, plain, rows, console)
    if machine.json:
        write_json(Path(machine.json), as_json(machine, plain, rows))
        console.print(f"\n{machine.json}", markup=False, highlight=False)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("plan", plan, argv)


if __name__ == "__main__":
    raise SystemExit(main())
