"""The ``plan`` command: rehearses a run's steps with and without recomputed activations, and shows every strategy."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from dira_scale.base.errors import UserError
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import write_json
from dira_scale.base.storage.owned import own_file
from dira_scale.fleet.forecast.estimate import Estimate, Rehearsals, estimate, prepared, rehearse_run, shards_of
from dira_scale.fleet.forecast.links import GB
from dira_scale.fleet.forecast.strategies import FLOAT, STRATEGIES, checkpointed
from dira_scale.train.data.batch import UNITS
from dira_scale.train.planned import Machine
from dira_scale.train.schedule import batches_of

COPY = 5e9  # bytes/s from a GPU to memory that is not pinned, at least
WIDTH = 108  # columns of the table where the output is not a terminal


def show_plan(cfg: DictConfig, command: str = "pretrain") -> None:
    """Print the table of strategies of a run of ``command``; write the figures to the file ``plan.json``, if set."""
    blueprint, ranks, loading, fetches = prepared(command, cfg)
    config = blueprint.config
    machine = config.plan
    if machine.json and not Path(machine.json).absolute().parent.is_dir():
        raise UserError(f"plan.json={machine.json}: no such folder: {Path(machine.json).absolute().parent}")
    if machine.json:
        own_file(Path(machine.json), "plan.json", stamp='"heaviest_stage"')
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    with bar("rehearsing", "steps") as progress:
        task = progress.add_task("", total=2 * (len(batches_of(config)) + 1))
        plain = rehearse_run(blueprint, ranks, False, partial(progress.advance, task))
        plain = replace(plain, remarks=(*fetches, *plain.remarks))
        recomputing = rehearse_run(blueprint, ranks, True, partial(progress.advance, task))
    cases = [(rehearsed, strategy) for rehearsed in (plain, recomputing) for strategy in STRATEGIES]
    rows = [estimate(config, machine, rehearsed, plain, strategy, loading) for rehearsed, strategy in cases]
    show(config, machine, plain, rows, console)
    if machine.json:
        write_json(Path(machine.json), as_json(machine, plain, rows))
        console.print(f"\n{machine.json}", markup=False, highlight=False)


def show(config: Any, machine: Machine, plain: Rehearsals, rows: Sequence[Estimate], console: Console) -> None:
    """Print networks and stages, then the table of strategies, then notes on the figures."""
    ranks, stage, name = plain.ranks, plain.stages[plain.heaviest], plain.heaviest
    unit, dots = UNITS[config.model.dimensions], "pixels" if config.model.dimensions == 2 else "voxels"
    console.print(f"\n[bold]{config.model.name}[/], views of {config.data.size} {dots}, {config.precision}\n")
    console.print(_stages(config, plain))
    nodes = f"{machine.nodes} node{'s' * (machine.nodes > 1)} of {machine.gpus} GPU{'s' * (machine.gpus > 1)}"
    console.print(f"\n[bold]{nodes}, {machine.memory:g} GB each[/]; memory in GB of one rank, stage [bold]{name}[/]\n")
    console.print(_strategies(config, rows))
    operation = f"{1e6 * machine.dispatch:g} µs an operation"
    launching = f"; h: as long as the host takes to launch it, {operation}; parallel.graph=true replays it (ddp)"
    host = launching * any(row.launching for row in rows)
    norms = machine.norm_bandwidth or machine.bandwidth
    moving = f", memory at {machine.bandwidth:g} TB/s, of norms {norms:g}" if machine.bandwidth else ""
    figures = f"products at {machine.tflops:g} TFLOP/s{moving} (plan.tflops, plan.bandwidth, plan.norm_bandwidth)"
    speed = f"as measured, {machine.images_per_second:g} {unit}/s a GPU" if machine.images_per_second else figures
    fastest = max(row.images_per_second for row in rows)
    stages = f"all {len(plain.stages)} stages" if len(plain.stages) > 1 else "the one stage"
    notes = [
        f"▸ as configured. A rank has {stage.images} of {stage.images * ranks} {unit}; 'fits': {unit} of the largest "
        "micro-batch. The peak is below the sum of its parts: activations are freed as gradients appear. MB sent: per "
        "rank and step.",
        f"Time: {speed}, plus the communication that this does not hide{host}"
        f"; no validation, checkpoints or failures; needs a loader of {fastest / machine.nodes:,.0f} {unit}/s a node.",
        f"Hours and price: {stages} in full, {machine.images:,} {unit}, {machine.price:g} per GPU-hour.",
    ]
    if loader := rows[0].memory.loader:
        notes.append(
            f"The peak includes an estimate of {loader / GB:.2f} GB for decoding on the GPU (data.loader=dali)."
        )
    notes += [f"{remark[0].upper()}{remark[1:]}." for remark in plain.remarks]
    saved = checkpointed(stage)
    notes.append(
        f"A checkpoint has {saved / GB:.1f} GB: training waits while each process copies {saved / ranks / 1e6:,.0f} "
        f"MB, {saved / ranks / COPY:.2g} s. A run that resumes verifies as much, and reads what each process holds."
    )
    if ranks > 1:
        shards = shards_of(config, machine, plain)
        notes.append(f"fsdp2 shards over {shards} of {ranks:,} processes (parallel.shard).")
        notes.append("DeepSpeed's buckets are 32 MB each, whatever the network's size.")
    console.print("\n" + "\n".join(notes), style="dim", highlight=False)


def as_json(machine: Machine, plain: Rehearsals, rows: Sequence[Estimate]) -> dict[str, Any]:
    """All figures: bytes, seconds, floating-point operations."""
    stages = {}
    for name, step in plain.stages.items():
        figures = {key: value for key, value in vars(step).items() if key not in ("live_in_passes", "live_in_update")}
        for key in ("collectives", "groups"):
            figures[key] = [item._asdict() for item in figures[key]]
        for key in ("forward", "backward", "beside"):
            work = figures[key]
            parts = {"norms": work.norms, "idle": work.idle, "others": work.others}
            figures[key] = {"flops": work.flops, "moved": work.moved} | parts
        stages[name] = figures | {"activations": step.activations}
    about = {"machine": asdict(machine), "ranks": plain.ranks, "heaviest_stage": plain.heaviest}
    about["remarks"] = list(plain.remarks)
    return about | {"stages": stages, "rows": [asdict(row) for row in rows]}


def _stages(config: Any, plain: Rehearsals) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    unit = UNITS[config.model.dimensions].removesuffix("s")
    for name in ("stage", "terms", "trained", "no gradient", f"GFLOP/{unit}", f"activations/{unit}"):
        table.add_column(name, justify="left" if name in ("stage", "terms") else "right", no_wrap=True)

    def counted(size: int) -> str:
        return f"{size // FLOAT / 1e6:.1f} M" if size // FLOAT >= 1e5 else f"{size // FLOAT:,}"

    for name, step in plain.stages.items():
        table.add_row(
            f"[bold]{name}[/]",
            ", ".join(config.stages[name].terms),
            counted(step.trained),
            counted(still) if (still := step.momentum + step.teachers) else "–",
            f"{(step.forward + step.backward).flops / step.images / 1e9:.1f}",
            f"{step.activations / step.images / 1e6:.1f} MB",
        )
    return table


def _strategies(config: Any, rows: Sequence[Estimate]) -> Table:
    table = Table(header_style="dim", padding=(0, 1, 0, 0), pad_edge=False, box=None)
    head = "parallel,weights,no grad,grads,optim,buffers,activ.,peak,fits,MB sent,ms/step"
    for name in (*head.split(","), f"{UNITS[config.model.dimensions]}/s", "hours", "price"):
        table.add_column(name, justify="left" if name == "parallel" else "right", no_wrap=True)
    parallel = config.parallel.strategy, config.parallel.checkpoint_activations
    for title, checkpointing in (("all kept", False), ("recomputing", True)):
        table.add_row(f"[dim italic]{title}[/]")
        for row in rows:
            if row.checkpointing == checkpointing:
                configured = (row.strategy, checkpointing) == parallel
                memory = row.memory
                parts = [memory.parameters + memory.adversary, memory.momentum, memory.gradients, memory.optimizer]
                parts += [memory.communication, memory.activations]
                table.add_row(
                    f"[bold]▸ {row.strategy}[/]" if configured else f"  {row.strategy}",
                    *(f"{part / GB:.2f}" for part in parts),
                    f"[{'green' if row.fits else 'red'}]{memory.peak / GB:.2f}[/]",
                    f"{row.largest}" if row.largest else "[red]none[/]",
                    f"{row.sent / 1e6:,.0f}",
                    f"{1000 * row.step:,.1f}{' h' if row.launching else '  '}",
                    f"{row.images_per_second:,.0f}",
                    f"{row.hours:,.1f}",
                    f"{row.price:,.0f}",
                )
    return table
