"""Checks before a sweep starts anything: every run's configuration, the machines, a rehearsal."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from etils.epy import lazy_imports
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.config.border import advised
from dira_scale.base.config.compose import compose, defaults
from dira_scale.base.errors import UserError, require
from dira_scale.commands import COMMANDS
from dira_scale.sweep.config import Cluster, SweepConfig
from dira_scale.sweep.records import Run
from dira_scale.train.runs.description import Description, read_description

with lazy_imports():
    from dira_scale.fleet.forecast import estimate
    from dira_scale.train import blueprint


def read_by(run: Run, trained: Mapping[str, Run]) -> list[Run]:
    """The runs among ``trained``, by the folders where they train, that are named in the words of ``run``."""
    named = [word.removeprefix("run=") for word in run.words if word.startswith("run=")]
    if exact := [trained[folder] for folder in named if folder in trained]:
        return exact
    return [run for folder, run in trained.items() if any(folder in several for several in named)]  # run=[…, …]


def describing(run: Run) -> tuple[str, ...]:
    """The words that decide what others read of a run's description, choices of groups among them: runs that share
    them are probed and exported alike."""
    row = COMMANDS[run.command]
    words = [word for word in run.words if not word.startswith((f"{row.output}=", "seed=", "steps="))]
    keys = [(word, _key(word)) for word in words]
    decisive = {key for _, key in keys if "." not in key or {key, key.partition(".")[0]} & {*row.described}}
    return tuple(word for word, key in keys if key in decisive or "=" not in word)


def descriptions(cfg: DictConfig, runs: Sequence[Run]) -> dict[str, Description] | None:
    """The descriptions of the runs that ``cfg`` reads, by name; None where one is of another place and not there yet.

    ``runs``: those of the sweep that it may read.
    """
    trained = {_output(run): run for run in runs}
    named = [cfg.run] if isinstance(cfg.run, str) else [*(cfg.run or [])]
    result: dict[str, Description] = {}
    for folder in named:
        if folder in trained:
            result[trained[folder].id] = _described(trained[folder].command, describing(trained[folder]))
            continue
        try:
            result[folder] = read_description(Path(folder))
        except (UserError, OSError):
            return None
    return result


@lru_cache
def _described(command: str, words: tuple[str, ...]) -> Description:
    """Describe a run of ``words``, with anything for the other keys that the command requires, such as its data."""
    chosen = {_key(word) for word in words}
    required = [f"{key}=any" for key in sorted(OmegaConf.missing_keys(defaults(command))) if key not in chosen]
    return blueprint.blueprint_of(command, compose(command, [*words, *required])).describe()


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _output(run: Run) -> str:
    key = f"{COMMANDS[run.command].output}="
    return next((word.removeprefix(key) for word in run.words if word.startswith(key)), "")


def check_runs(runs: Sequence[Run], everything: Sequence[Run] = ()) -> None:
    """Find what any run's command would refuse without data; of runs that differ only in seed and outputs, check one.

    Data that a run finds only later (what a needed run makes) is not looked at. ``everything``: more runs of the sweep,
    which these may read.

    Raises UserError for the first one that is wrong; names phase, run and key.
    """
    trained = {_output(run): run for run in (*runs, *everything) if COMMANDS[run.command].trains and _output(run)}
    checked = set[tuple[object, ...]]()
    for run in runs:
        row = COMMANDS[run.command]
        reads = read_by(run, trained) if row.reads_run else []
        words = [word for word in run.words if not word.startswith((f"{row.output}=", "slice="))]
        for need in run.needs:
            words = [word.replace(need, "") for word in words]
        words = [re.sub(r"^seed=\d+$", "seed=0", word) for word in words]
        # Equal for runs whose configurations are right or wrong together.
        same = run.phase.partition("-")[0], run.command, *words, *map(describing, reads)
        if same in checked:
            continue
        checked.add(same)
        try:
            _check_words(run, reads)
        except UserError as error:
            why = " ".join(advised(error).split())
            raise UserError(f"phase {run.phase}, run {run.name}: {why}; nothing was started") from error


def _check_words(run: Run, reads: Sequence[Run]) -> None:
    """Check a run as its command would, except for data; ``reads``: runs of the sweep it reads. Raises UserError."""
    row = COMMANDS[run.command]
    if row.torch:
        require(f"{run.command} needs", "train", "torch")
    arguments: list[Any] = [compose(run.command, run.words)]
    if row.trains:
        return blueprint.blueprint_of(run.command, arguments[0]).check(run.launch.nodes * run.launch.processes)
    if row.reads_run:
        if (runs := descriptions(arguments[0], reads)) is None:
            return
        arguments.append(runs)
    if row.check:
        resolve_name(row.check)(*arguments)


def check_machines(config: SweepConfig, runs: Sequence[Run]) -> None:
    """Raises UserError for a profile that cannot carry out these runs."""
    for run in runs:
        profile = config.profile(run.phase)
        where = f"sweep.phases.{run.phase.partition('-')[0]}"
        if profile.executor == "local" and run.launch.nodes > 1:
            raise UserError(f"{where}.nodes={run.launch.nodes}: executor local has one machine; use cluster=slurm")
        if not COMMANDS[run.command].trains and run.launch.nodes * run.launch.processes > 1:
            able = " and ".join(row.name for row in COMMANDS.values() if row.trains)
            raise UserError(f"{where}: {run.command} runs as one process; nodes and processes are for {able}")


def gpus_of(run: Run, profile: Cluster) -> int:
    """GPUs of a run on each of its nodes, where there are any."""
    if profile.gpus_per_node is not None:
        return profile.gpus_per_node
    return run.launch.processes if COMMANDS[run.command].gpu else 0


def rehearse(config: SweepConfig, runs: Sequence[Run]) -> list[str]:
    """A line about the first run of each phase that trains: memory, and hours and cost of it and of all of the phase.

    Raises UserError if ``plan`` refuses its configuration.
    """
    phases: dict[str, list[Run]] = {}
    for run in runs:
        if COMMANDS[run.command].trains:
            phases.setdefault(run.phase, []).append(run)
    machines = {phase: config.profile(phase).plan for phase in phases}
    lines = [f"{phase}: {_rehearsed(phases[phase], machine)}" for phase, machine in machines.items() if machine]
    if without := [phase for phase, machine in machines.items() if not machine]:
        lines.append(f"{', '.join(without)}: no estimate: cluster.plan describes no GPU")
    return lines


def _rehearsed(runs: Sequence[Run], described: Mapping[str, Any]) -> str:
    run, count = runs[0], len(runs)
    shards = [word.partition("=")[2] for word in run.words if word.startswith("data.shards=")]
    to_be_made = [path for path in shards if any(need in path for need in run.needs)]
    exists = all((Path(path) / "manifest.parquet").exists() for path in to_be_made)
    left_out = ("run=",) if exists else ("run=", "data.shards=")
    words = [word for word in run.words if not word.startswith(left_out)]
    try:
        plan = estimate.planned(
            run.command, words, {"nodes": run.launch.nodes, "gpus": run.launch.processes, **described}
        )
    except UserError as error:
        raise UserError(f"phase {run.phase}, run {run.name}, rehearsed by plan: {advised(error)}") from error
    row = plan.row
    memory = f"{row.memory.peak / 1e9:.2f} GB of GPU memory in each process"
    memory += "" if row.fits else ", MORE THAN THERE IS"
    if not exists:
        milliseconds = f"{1000 * row.step:{'.0f' if row.step >= 0.01 else '.2g'}} ms"
        return f"{memory}, {milliseconds} a step; hours and cost are unknown until its data exists"
    total = f"; {count} runs: {count * row.hours:,.1f} h, {count * row.price:,.0f}" if count > 1 else ""
    return f"{memory}; {plan.steps:,} steps of the first run: {row.hours:,.1f} h, cost {row.price:,.0f}{total}"
