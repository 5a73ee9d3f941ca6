"""A phase's finished runs in one table, by what their command says of spread and differences (``Command.compare``)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import yaml

from dira_scale.commands import COMMANDS
from dira_scale.errors import UserError
from dira_scale.machine.console import Console
from dira_scale.metrics.figure import plain
from dira_scale.storage.atomic import write_json
from dira_scale.sweep.records import Run, SweepFolder

if TYPE_CHECKING:  # imports torch
    from dira_scale.evaluation.comparison import Compared

UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    yaml.YAMLError,
    UserError,
)  # what files that are missing or damaged raise
WIDTH = 160  # columns where the output is not a terminal


def compare_phases(folder: SweepFolder, runs: Sequence[Run]) -> tuple[dict[str, "Compared"], list[str]]:
    """By phase, and a line for each that cannot be compared."""
    compared, problems = {}, []
    for phase in dict.fromkeys(run.phase for run in runs if COMMANDS[run.verb].compare):
        members = [run for run in runs if run.phase == phase]
        varied = [{key.removeprefix(f"{phase}."): value for key, value in run.varied.items()} for run in members]
        outputs = [folder.output(run) for run in members]
        try:
            compared[phase] = resolve_name(COMMANDS[members[0].verb].compare)(list(zip(varied, outputs, strict=True)))
        except UNREADABLE as error:
            problems.append(f"{phase}: its runs cannot be compared: {error}")
    return compared, problems


def write_spread(path: Path, compared: Mapping[str, "Compared"]) -> None:
    """Write ``spread.json`` in the sweep's folder ``path``."""
    write_json(path / "spread.json", {phase: plain(asdict(of)) for phase, of in compared.items()})


def print_tables(compared: Mapping[str, "Compared"]) -> None:
    """To the terminal."""
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    for phase, of in compared.items():
        from dira_scale.evaluation.probe_table import rich_table  # lazy, as what compares is

        for title, cells in of.tables():
            console.print(rich_table(f"{phase}: {title}", cells))
        for note in of.notes:
            console.print(note, markup=False, highlight=False)
