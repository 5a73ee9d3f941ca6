"""A sweep's runs: list x grid x seeds of each phase, for each run of the phases that it needs.

The hash at the end of a run's name depends on its own command alone, so that it is known before anything has run, and
stays the same when a grid gets another value, or when a value is written elsewhere in the sweep. A recorded run of the
same hash is the same run, and keeps its name: a sweep that is started again finds its runs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from dira_scale.base.config.keys import typed, written
from dira_scale.base.errors import UserError, nearest
from dira_scale.commands import COMMANDS
from dira_scale.sweep.command_line import DIGEST, digest_of, name_of, reference, references, resolved, words_of
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.records import Launch, Run

Lineage = Mapping[str, Run]  # by phase, a run and those that it follows from


@dataclass(frozen=True)
class Reads:
    """The runs that a run may read: ``one`` by phase, and ``all`` of phases that it reads completely."""

    one: Lineage
    all: Mapping[str, Sequence[Run]]


def expand(
    sweep: Sweep, folder: Path, typed_values: Mapping[str, Mapping[str, Any]], config_dirs: Sequence[Path] = ()
) -> list[Run]:
    """All runs of ``sweep``, each after those that it needs.

    Args:
        folder: the sweep's, in which outputs of runs that others need are, and the runs that are recorded already.
        typed_values: per phase, KEY: VALUE, instead of what the sweep says about KEY.
        config_dirs: the user's folders of configurations.

    Raises:
        UserError: an unknown phase, phases that need each other, a reference to a run that is not needed, a key set
            twice, or two equal runs.
    """
    phases, folder = sweep.phases, folder.absolute()
    for name in typed_values:
        if name not in phases:
            raise UserError(f"{name}.…: no key of sweep, and no phase of {sweep.name}{_there_are(name, phases)}")
    names = (file.parts[-3:-1] for file in sorted(folder.glob("*/*/run.json")))
    recorded = {(phase, name[-DIGEST:]): name for phase, name in names}
    lineages: dict[str, list[Lineage]] = {}
    runs: list[Run] = []
    digests: set[tuple[str, str]] = set()
    for name in _order(phases):
        everything = {other: [lineage[other] for lineage in lineages[other]] for other in phases[name].for_all or []}
        for needed in _joined([lineages[other] for other in phases[name].for_each or []]):
            own = typed_values.get(name, {})
            for values in _combinations(name, phases[name], own):
                in_turn = dict.fromkeys(other for value in values.values() if (other := reference(value)) in everything)
                for followed in _joined([[needed], *(lineages[other] for other in in_turn)]):
                    reads = Reads(followed, everything)
                    *slices, run = _runs(name, phases[name], values, own, reads, recorded, folder, config_dirs)
                    if (same := (name, _digest(run))) in digests:
                        settings = ", ".join(f"{key}={written(value)}" for key, value in values.items())
                        settings = settings or "no list, grid or seeds"
                        raise UserError(f"phase {name}: two equal runs: {settings}; make them differ in a key")
                    digests.add(same)
                    runs += [*slices, run]
                    lineages.setdefault(name, []).append({**followed, name: run})
    return runs


def _digest(run: Run) -> str:
    return run.name[-DIGEST:]


def _order(phases: Mapping[str, Phase]) -> list[str]:
    """The phases' names, each after those that it needs, otherwise as they are written."""
    needs = {name: {*(phase.for_each or []), *(phase.for_all or [])} for name, phase in phases.items()}
    for name, phase in phases.items():
        for key in ("for_each", "for_all"):
            for other in getattr(phase, key) or []:
                if other not in phases:
                    raise UserError(f"phases.{name}.{key}={other}: no such phase{_there_are(other, phases)}")
    done: list[str] = []
    while len(done) < len(phases):
        ready = [name for name in phases if name not in done and needs[name] <= set(done)]
        if not ready:
            raise UserError(f"these phases need each other: {', '.join(sorted(set(phases) - set(done)))}")
        done += ready
    return done


def _joined(parents: Sequence[Sequence[Lineage]]) -> list[Lineage]:
    """Each choice of one lineage per parent that agree: no run follows from two runs of one phase."""
    lineages: list[Lineage] = [{}]
    for parent in parents:
        lineages = [
            {**lineage, **other}
            for lineage in lineages
            for other in parent
            if all(lineage.get(phase, run).id == run.id for phase, run in other.items())
        ]
    return lineages


def _combinations(name: str, phase: Phase, typed_values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The varied values of each run: list x grid x seeds, without the keys that are typed."""
    entries = phase.list or [{}]
    grid = dict(phase.grid or {}) | ({"seed": phase.seeds} if phase.seeds is not None else {})
    listed = {key for entry in entries for key in entry}
    for key in listed | grid.keys():
        parts: dict[str, Collection[str]] = {"set": phase.set or {}, "list": listed, "grid": phase.grid or {}}
        parts["seeds"] = ["seed"] if phase.seeds else []
        if len(where := [part for part, keys in parts.items() if key in keys]) > 1:
            raise UserError(f"phase {name}: {key} is in {' and in '.join(where)}: keep one")
    entries = [{key: value for key, value in entry.items() if key not in typed_values} for entry in entries]
    if listed & typed_values.keys():  # a typed value may leave entries that are equal
        entries = [entry for n, entry in enumerate(entries) if entry not in entries[:n]]
    grid = {key: values for key, values in grid.items() if key not in typed_values}
    return [entry | dict(zip(grid, values, strict=True)) for entry in entries for values in product(*grid.values())]


def _runs(
    name: str,
    phase: Phase,
    varied: Mapping[str, Any],
    typed_values: Mapping[str, Any],
    reads: Reads,
    recorded: Mapping[tuple[str, str], str],
    folder: Path,
    config_dirs: Sequence[Path],
) -> Iterator[Run]:
    """The run of these values; before it, those of its slices."""
    lineage = reads.one
    values = {**(phase.set or {}), **varied, **typed_values}
    row = COMMANDS[phase.command]
    if row.reads_run and "run" not in values:
        trained = [other for other in lineage if COMMANDS[lineage[other].command].trains]
        gathered = [f"{{{other}}}" for other, runs in reads.all.items() if COMMANDS[runs[0].command].trains]
        if gathered or len(trained) == 1:
            values |= {"run": gathered or f"{{{trained[0]}}}"}
    for key in (row.output, "slice") if phase.slices else (row.output,):
        if key in values:
            raise UserError(f"phase {name}: {key} is set by the sweep; leave it out")
    referred = {phase_name for value in values.values() for phase_name in references(value)}
    if unknown := sorted(referred - lineage.keys() - reads.all.keys()):
        raise UserError(f"phase {name}: '{{{unknown[0]}}}' is not a phase that it needs: add it to for_each")
    for key, value in values.items():
        if several := sorted(references(value, singly=True) - lineage.keys()):
            raise UserError(
                f"phase {name}: {key}={typed(value)}: for_all has {several[0]}, so '{{{several[0]}}}' stands for all "
                f"its runs: make it an item of a list, or write {key} in grid or list, which take one run after the "
                "other"
            )

    identity = _resolved(values, reads, lambda run: f"{{{run.phase}/{_digest(run)}}}")
    digest = digest_of(phase.command, identity, varied)
    # A column each in a table of all phases, those of the runs that it follows from too.
    columns = {key: value for run in lineage.values() for key, value in run.varied.items()}
    columns |= {f"{name}.{key}": value for key, value in varied.items()}
    read = {*(phase.for_each or []), *referred}
    needed = [[lineage[other]] if other in lineage else reads.all[other] for other in read]
    needs = sorted({one.id for runs in needed for one in runs})
    run = Run(
        phase=name, name=recorded.get((name, digest)) or name_of(digest, columns), command=phase.command, words=[],
        output="", needs=needs, varied=columns, launch=Launch(phase.nodes, phase.processes),
    )  # fmt: skip
    run = replace(run, output=f"{run.id}/output")
    final = _resolved(values, reads, lambda run: str(folder / run.output))
    words = words_of(phase.command, final, str(folder / run.output), config_dirs)
    count, parts = phase.slices or 0, []
    for n in range(1, count + 1):
        part = f"{n:04d}-of-{count:04d}-{digest}"
        yield replace(run, phase=f"{name}-slices", name=part, words=[*words, f"slice={n}/{count}"])
        parts.append(f"{name}-slices/{part}")
    yield replace(run, words=words, needs=sorted({*needs, *parts}))


def _resolved(values: Mapping[str, Any], reads: Reads, name: Callable[[Run], str]) -> dict[str, Any]:
    """``values`` with the ``name`` of the runs that they refer to."""
    one = {phase: name(run) for phase, run in reads.one.items()}
    several = {phase: [name(run) for run in runs] for phase, runs in reads.all.items() if phase not in one}
    return {key: resolved(value, one, several) for key, value in values.items()}


def _there_are(name: str, phases: Mapping[str, Phase]) -> str:
    return f"{nearest(name, phases) or '.'} There are: {', '.join(phases)}"
