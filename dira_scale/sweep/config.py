"""The schema of ``configs/sweep.yaml``: a sweep's phases, and the profile of the machines that carry it out."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import MISSING

from dira_scale.base.arguments import UNSHOWN, Above, ArgumentError, AtLeast, converted
from dira_scale.base.config.border import at
from dira_scale.base.config.schema import Schema, one_of, path_field, setting
from dira_scale.base.errors import UserError, nearest
from dira_scale.commands import COMMANDS
from dira_scale.judge.pages.tables.papers import PaperTable

# Keys of `configs/sweep.yaml`: no phase has such a name, since PHASE.KEY=VALUE must not be a key of the sweep's own.
OWN = ("sweep", "cluster", "folder", "dry_run", "detach")
IN_FOLDER = ("lock", "jobs")  # beside the folders of the phases
IN_SWEEPS = [name for row in COMMANDS.values() if row.in_sweeps for name in (row.name, *row.also_in_sweeps)]


@dataclass
class Cluster(Schema):
    """A profile; the comments in ``slurm/cluster/`` say what each key means."""

    executor: str = setting(one_of("local", "slurm"))
    parallel: int | None = setting(AtLeast(1), None)
    gpus_per_node: int | None = setting(AtLeast(0), None)
    cpus_per_task: int = setting(AtLeast(1))
    memory: float | None = setting(Above(0), None)
    tries: int = setting(AtLeast(1))
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    hours: float | None = setting(Above(0), None)
    signal_delay: int | None = setting(AtLeast(1), None)
    python: str | None = None
    setup: list[str] | None = None
    sbatch: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for keys that the executor lacks."""
        super().__post_init__()
        for name in ("hours", "signal_delay"):
            if self.executor == "slurm" and getattr(self, name) is None:
                raise ArgumentError(name, None, "a number: SLURM needs it (slurm/cluster/slurm.yaml describes it)")


@dataclass
class Phase(Schema):
    """Runs of one command: ``list`` x ``grid`` x ``seeds``, for each run of the phases in ``for_each``. All keys:
    docs/reference/sweeps.md."""

    command: str = setting(one_of(*IN_SWEEPS))
    for_each: Any = None
    for_all: Any = None
    set: dict[str, Any] | None = None
    grid: dict[str, Any] | None = None
    seeds: Any = None
    slices: int | None = setting(AtLeast(2), None)
    nodes: int = setting(AtLeast(1), 1)
    processes: int = setting(AtLeast(1), 1)
    cluster: dict[str, Any] | None = None
    list: Any = None

    def __post_init__(self) -> None:
        """Raises ArgumentError for a part of another kind than docs/reference/sweeps.md describes."""
        super().__post_init__()
        for key in ("for_each", "for_all"):
            if isinstance(value := getattr(self, key), str):
                setattr(self, key, [value])
        if type(self.seeds) is int:
            self.seeds = [*range(self.seeds)]
        for key, kind, may_be_empty, expected in (
            ("for_each", str, True, "a phase, or a list of phases"),
            ("for_all", str, True, "a phase, or a list of phases"),
            ("list", dict, False, "a list of mappings, [{KEY: VALUE}]"),
            ("seeds", int, False, "a number of them, or a list of numbers"),
        ):
            value = getattr(self, key)
            right = isinstance(value, list) and all(type(item) is kind for item in value)
            if value is not None and not (right and (value or may_be_empty)):
                raise ArgumentError(key, value, expected)
        if twice := [name for name in self.for_each or [] if name in (self.for_all or [])]:
            raise ArgumentError("for_all", self.for_all, f"no {twice[0]}, which for_each has")
        for key, values in (self.grid or {}).items():
            if not isinstance(values, list) or not values:
                raise ArgumentError(f"grid.{key}", values, "a list of values; one value for all goes to set")
        if self.slices and not COMMANDS[self.command].slices:
            able = " and ".join(row.name for row in COMMANDS.values() if row.slices and row.in_sweeps)
            raise ArgumentError("slices", self.slices, f"null: only {able} have slices, not {self.command}")


@dataclass
class Sweep(Schema):
    """``tables``: the tables of papers that some of its figures stand beside, as ``PaperTable`` describes them."""

    name: str = MISSING
    phases: dict[str, Phase] = MISSING
    tables: Any = None

    def __post_init__(self) -> None:
        """Raises ArgumentError if a name cannot be that of a folder, or of a key, or for a table that no paper has."""
        super().__post_init__()
        keys = {each.name for each in fields(PaperTable)}
        for table in self.tables or []:
            if not isinstance(table, dict) or table.keys() != keys:
                raise ArgumentError("tables", table, f"{{{', '.join(sorted(keys))}}} of each")
            if unknown := [phase for phase in table["tasks"] if phase not in self.phases]:
                raise ArgumentError("tables.tasks", unknown[0], f"phases{nearest(unknown[0], [*self.phases])}")
            PaperTable(**table)
        if self.name != MISSING and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name, re.ASCII):
            raise ArgumentError("name", self.name, "letters, digits, '.', '-' and '_', as it names a folder")
        if isinstance(self.phases, dict):
            for phase in self.phases:
                if not re.fullmatch(r"[a-z]\w*", phase, re.ASCII) or phase in OWN + IN_FOLDER:
                    other = ", ".join(OWN + IN_FOLDER)
                    raise ArgumentError(
                        f"phases.{phase}", UNSHOWN, f"a name of lower-case letters, digits and '_', none of {other}"
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
        where, names = f"sweep.phases.{name}.cluster.", [each.name for each in fields(Cluster)]
        for key in changed:
            if key not in names or key == "executor":
                raise UserError(f"{where}{key}: no phase may set that{nearest(key, names)}")
        with at(where.removesuffix(".")):
            return converted(Cluster, asdict(self.cluster) | dict(changed))


@dataclass
class Submission(Schema):
    """The keys beside its own with which a command that trains submits its run."""

    nodes: int = setting(AtLeast(1))
    processes: int = setting(AtLeast(1))
    dry_run: bool = MISSING
    cluster: Cluster = field(default_factory=Cluster)


@dataclass
class OneSweep(Schema):
    """The keys of all subcommands; ``folder`` stands for the sweep's default one where only its name is given."""

    name: str | None = None
    folder: str = path_field()

    def __post_init__(self) -> None:
        """Raises UserError if neither is given."""
        super().__post_init__()
        if self.folder == "out/sweeps/None":
            raise UserError("folder: give sweep=NAME for out/sweeps/NAME, or folder=…")


@dataclass
class Status(OneSweep):
    watch: float | None = setting(Above(0), None)
    json: bool = MISSING


@dataclass
class Logs(OneSweep):
    runs: Any = None
    lines: int = setting(AtLeast(1))


@dataclass
class Cancel(OneSweep):
    runs: Any = None


@dataclass
class Retry(Cancel):
    detach: bool = MISSING
