"""The row of a command, which stands in the ``__init__.py`` of its folder.

Imports nothing of the package: functions are named, ``module:function``, and imported by who calls them
(``pkgutil.resolve_name``). How to add a command: docs/explanation/architecture.md.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command: what is true of one and that the rest of the package needs to know of it.

    Attributes:
        name: what is typed after ``dira_scale``; also of its folder beside this file, and of its file in ``configs/``.
        help: its line in ``dira_scale --help``.
        function: carries it out by its configuration, and returns an exit code or nothing. Of a command
            that trains, by default, the training of its blueprint.
        look: functions of the configuration that raise UserError, before torch is imported, for what is missing here.
        output: the key that says where it writes; empty if it has none.
        in_sweeps: may be the command of a sweep's phase; and so may ``also_in_sweeps``, ``NAME SUBCOMMAND``, which
            write to ``output``, too.
        gpu: computes on a GPU where there is one.
        reads_run: its key ``run`` names what another command has trained.
        processes: may be started as several processes.
        torch: needs it; where it is not installed, the command says so in one line, with what to type.
        parts: keeps the finished parts of its output when it is stopped.
        slices: makes one of N parts of its output by ``slice=n/N``.
        execution: keys and sections that say how it is computed, without effect on the result.
        blueprint: of a command that trains: the class of its :class:`dira_scale.train.blueprint.Blueprint`, by which
            sweeps check and estimate its runs, and know what they will be.
        check: of one that does not train: the function that refuses, before there is data, what the command would. It
            gets the configuration; then the descriptions by name of the runs it reads.
        described: keys and sections that decide what of this description a command that reads the run may refuse.
        results: the function that reads a finished output folder: pairs of name and figure, the configuration, and
            the names of the figures by which runs are compared.
        compare: the function that compares a phase's finished runs, given what varies and the folder of each: spreads,
            differences and notes. Empty: a sweep's page has means over seeds.
        submission: of a command that trains: the module that submits its run to SLURM by ``cluster=slurm``.
        page: the function that writes the HTML page of its folder, given the folder and the file, for `report`. Empty:
            the folder is a run's, or has no page. ``watch_page``: the function that gives what this page depends on,
            and a function that makes it and writes nothing.
        subcommands: what may be typed after its name, with the function of each.
    """

    name: str
    help: str
    function: str = ""
    look: tuple[str, ...] = ()
    output: str = ""
    in_sweeps: bool = False
    also_in_sweeps: tuple[str, ...] = ()
    gpu: bool = False
    reads_run: bool = False
    processes: bool = False
    torch: bool = True
    parts: bool = False
    slices: bool = False
    execution: tuple[str, ...] = ()
    blueprint: str = ""
    check: str = ""
    described: tuple[str, ...] = ()
    results: str = "dira_scale.sweep.results:from_json"
    compare: str = ""
    submission: str = "dira_scale.sweep.single"
    page: str = ""
    watch_page: str = ""
    subcommands: Mapping[str, str] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Return whether it makes steps and resumes at one; in a sweep, only such commands have several processes."""
        return bool(self.blueprint)

    def check_inputs(self, cfg: Any) -> None:
        """Raise UserError, before torch is imported, for what the configuration names and is not here."""
        for path in self.look:
            resolve_name(path)(cfg)

    def carry_out(self, cfg: Any) -> Any:
        """Carry the command out with a composed configuration; return its exit code, or nothing."""
        if self.gpu:
            _import_without("timm", "wandb")
        if self.trains:
            _import_without("accelerate", "boto3")
        if self.function:
            return resolve_name(self.function)(cfg)
        return resolve_name("dira_scale.train.trainer:train")(self.name, cfg)


def _import_without(package: str, *others: str) -> None:
    """Import ``package`` as where ``others`` are not installed, which it would import for what is not used here: their
    modules would be a fifth of a start's."""
    hidden = [name for name in others if name not in sys.modules]
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]
    try:
        import_module(package)
    finally:
        for name in hidden:
            del sys.modules[name]
