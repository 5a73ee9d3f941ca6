"""The schema of ``configs/sweep.yaml``: a sweep's phases, and the profile of the machines that carry it out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dira_scale.commands import COMMANDS
from dira_scale.config.keys import typed
from dira_scale.config.schema import Schema, above, at_least, kind, one_of, path_field
from dira_scale.errors import UserError, nearest
from dira_scale.pages.tables.papers import PaperTable

# Keys of `configs/sweep.yaml`: no phase has such a name, since PHASE.KEY=VALUE must not be a key of the sweep's own.
OWN = ("sweep", "cluster", "folder", "dry_run", "detach")
IN_FOLDER = ("lock", "jobs")  # beside the folders of the phases


@dataclass
class Cluster(Schema):
    """A profile; the comments in ``slurm/cluster/`` say what each key means."""

    executor: str = one_of("local", "slurm")
    parallel: int | None = at_least(1, None)
    gpus_per_node: int | None = at_least(0, None)
    cpus_per_task: int = at_least(1)
    memory: float | None = above(0, None)
    tries: int = at_least(1)
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    hours: float | None = above(0, None)
    signal_delay: int | None = at_least(1, None)
    python: str | None = None
    setup: list[str] | None = None
    sbatch: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raises UserError for keys that the executor lacks."""
        super().__post_init__()
        for name in ("hours", "signal_delay"):
            if self.executor == "slurm" and getattr(self, name) is None:
                raise UserError(f"{name}=null: a SLURM profile must have it (slurm/cluster/slurm.yaml describes it)")


@dataclass
class Phase(Schema):
    """Runs of one command: ``list`` x ``grid`` x ``seeds``, for each run of the phases in ``for_each``.

    Attributes:
        command: what each run is: the name of one that may be in sweeps.
        for_each: a phase or a list of phases. ``"{NAME}"`` in a value is the output of the phase's run.
        for_all: a phase or a list of phases. ``"{NAME}"`` is the output of one of its runs after the other in ``grid``
            and ``list``, and all of them as an item of a list.
        set: KEY: VALUE of every run.
        grid: KEY: [VALUES].
        seeds: a number (seeds from 0 on) or a list of them.
        slices: sharding by so many runs, each of which writes a part; one more joins them.
        nodes, processes: of a run; processes are per node.
        cluster: keys of the profile with other values in this phase.
        list: [{KEY: VALUE, …}, …].
    """

    command: str = one_of(*(row.name for row in COMMANDS.values() if row.in_sweeps))
    for_each: Any = None
    for_all: Any = None
    set: dict[str, Any] | None = None
    grid: dict[str, Any] | None = None
    seeds: Any = None
    slices: int | None = at_least(2, None)
    nodes: int = at_least(1, 1)
    processes: int = at_least(1, 1)
    cluster: dict[str, Any] | None = None
    list: Any = None

    def __post_init__(self) -> None:
        """Raises UserError for a part of another kind than described above."""
        super().__post_init__()
        for key in ("for_each", "for_all"):
            if isinstance(value := getattr(self, key), str):
                setattr(self, key, [value])
            _expect(self, key, lambda value: _is_list(value, str), "a phase, or a list of phases")
        if twice := [name for name in self.for_each or [] if name in (self.for_all or [])]:
            raise UserError(f"for_each and for_all both have {twice[0]}: keep one")
        _expect(self, "list", lambda value: _is_list(value, dict) and value, "a list of mappings, [{KEY: VALUE}]")
        if self.seeds is not None and not isinstance(self.seeds, bool | list):
            self.seeds = [*range(self.seeds)] if isinstance(self.seeds, int) else self.seeds
        _expect(self, "seeds", lambda value: _is_list(value, int) and value, "a number of them, or a list of numbers")
        for key, values in (self.grid or {}).items():
            if not isinstance(values, list) or not values:
                raise UserError(f"grid.{key}={typed(values)}: expected a list of values; one value for all goes to set")
        if self.slices and not COMMANDS[self.command].slices:
            able = " and ".join(row.name for row in COMMANDS.values() if row.slices and row.in_sweeps)
            raise UserError(f"slices={self.slices}: only command: {able} has slices, not {self.command}")


@dataclass
class Sweep(Schema):
    """``tables``: the tables of papers that some of its figures stand beside, as ``PaperTable`` describes them."""

    name: str = MISSING
    phases: dict[str, Phase] = MISSING
    tables: Any = None

    def __post_init__(self) -> None:
        """Raises UserError if a name cannot be that of a folder, or of a key, or for a table that no paper has."""
        super().__post_init__()
        keys = {each.name for each in fields(PaperTable)}
        for table in self.tables or []:
            if not isinstance(table, dict) or table.keys() != keys:
                raise UserError(f"tables: {typed(table)}: expected {{{', '.join(sorted(keys))}}}")
            if unknown := [phase for phase in table["tasks"] if phase not in self.phases]:
                raise UserError(f"tables.tasks.{unknown[0]}: no such phase{nearest(unknown[0], [*self.phases])}")
            PaperTable(**table)
        if self.name != MISSING and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name, re.ASCII):
            raise UserError(f"name={self.name}: expected letters, digits, '.', '-' and '_', as it names a folder")
        if isinstance(self.phases, dict):
            for phase in self.phases:
                if not re.fullmatch(r"[a-z]\w*", phase, re.ASCII) or phase in OWN + IN_FOLDER:
                    raise UserError(
                        f"phases.{phase}: expected a name of lower-case letters, digits and '_', none of "
                        f"{', '.join(OWN + IN_FOLDER)}"
                    )


@dataclass
class SweepConfig(Schema):
    folder: str = path_field()
    dry_run: bool = MISSING
    detach: bool = MISSING
    sweep: Sweep = field(default_factory=Sweep)
    cluster: Cluster = field(default_factory=Cluster)

    def profile(self, phase: str) -> Cluster:
        """The profile with the phase's own values. ``phase``: a name, or one with ``-slices`` behind it.

        Raises UserError for a value of the phase that the profile cannot have.
        """
        name = phase.partition("-")[0]
        changed: Mapping[str, Any] = self.sweep.phases[name].cluster or {}
        where, known = f"sweep.phases.{name}.cluster.", [each.name for each in fields(Cluster)]
        for key in changed:
            if key not in known or key == "executor":
                raise UserError(f"{where}{key}: no phase may set that{nearest(key, known)}")
        try:
            merged: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(self.cluster), changed))
        except OmegaConfBaseException as error:
            key = error.full_key or ""
            raise UserError(f"{where}{key}={typed(changed.get(key))}: expected {kind(Cluster, key)}") from error
        except UserError as error:
            raise UserError(f"{where}{error}") from error
        assert isinstance(merged, Cluster)
        return merged


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _expect(phase: Phase, name: str, holds: Any, expected: str) -> None:
    value = getattr(phase, name)
    if value is not None and not holds(value):
        raise UserError(f"{name}={typed(value)}: expected {expected}")


@dataclass
class OneSweep(Schema):
    """What all subcommands have; ``folder`` stands for the sweep's default one where only its name is given."""

    name: str | None = None
    folder: str = path_field()

    def __post_init__(self) -> None:
        """Raises UserError if neither is given."""
        super().__post_init__()
        if self.folder == "out/sweeps/None":
            raise UserError("folder: give sweep=NAME for out/sweeps/NAME, or folder=…")


@dataclass
class Status(OneSweep):
    watch: float | None = above(0, None)
    json: bool = MISSING


@dataclass
class Logs(OneSweep):
    runs: Any = None
    lines: int = at_least(1)


@dataclass
class Cancel(OneSweep):
    runs: Any = None


@dataclass
class Retry(Cancel):
    detach: bool = MISSING
