"""How a command is called: by its words, or by those of a subcommand; with which exit code it ends.

Hydra and what a command needs are imported when it is called, so that reading the table of commands stays quick.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from dira_scale.command import Command
from dira_scale.ends import interrupted
from dira_scale.errors import UserError, nearest, print_error

if TYPE_CHECKING:
    from omegaconf import DictConfig

Function = Callable[["DictConfig"], Any]  # returns an exit code, or nothing


class Main(Protocol):
    """Runs a command with the words after its name, by default those of this process; returns the exit code."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


def entry(
    command: Command,
    function: Function,
    look: Function | None = None,
    words: Callable[[Sequence[str]], list[str]] = list,
) -> Main:
    """Return the ``main`` of a command.

    Args:
        function: carries the command out, by its configuration.
        look: for a command of several processes: raises UserError, before torch is imported, for what is missing here.
            Of several processes none looks, as what only one lacks is told when they have met.
        words: rewrites the words before they are parsed.
    """

    def main(argv: list[str] | None = None) -> int:
        typed = list(sys.argv[1:] if argv is None else argv)
        if typed and (chosen := command.subcommands.get(typed[0])):
            return run(f"{command.name}_{typed[0]}", resolve_name(chosen), typed[1:])
        if command.subcommands and typed and typed[0].isalpha():
            there = f"{nearest(typed[0], command.subcommands) or '.'} There are: {', '.join(command.subcommands)}"
            print(f"{command.name}: no subcommand '{typed[0]}'{there}", file=sys.stderr)
            return 2
        if look:
            return _of_processes(command, function, look, typed)
        try:
            return run(command.name, function, words(typed))
        finally:  # --help ends by an exception
            if command.subcommands and typed in (["-h"], ["--help"]):
                print("\n".join(["", *_about(command)]))

    return main


def run(name: str, function: Function, words: list[str]) -> int:
    """Compose the configuration of ``configs/NAME.yaml``, call ``function`` with it and return the exit code.

    A ``UserError`` is printed as one line (2), and so is Ctrl-C (75).
    """
    from dira_scale.config import logs
    from dira_scale.config.compose import compose

    shown = name.replace("_", " ")
    logs.start(shown)
    try:
        return function(compose(name, words)) or 0
    except UserError as error:
        print_error(shown, error)
        return 2
    except KeyboardInterrupt:
        return interrupted(shown)


def _of_processes(command: Command, function: Function, look: Function, words: list[str]) -> int:
    """Run a command of which each process exits through here, after a look that needs no torch."""
    from dira_scale.config.compose import compose

    try:
        config = compose(command.name, words)
        if not any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
            look(config)
    except UserError as error:
        print_error(command.name, error)
        return 2
    from dira_scale.distributed.processes import leave

    return leave(lambda: run(command.name, function, words))


def _about(command: Command) -> list[str]:
    """The subcommands, a line each: the first of their functions' docstrings."""
    lines = {name: (resolve_name(path).__doc__ or "").splitlines()[0] for name, path in command.subcommands.items()}
    usage = f"also: python -m dira_scale.{command.name} SUBCOMMAND KEY=VALUE ... (SUBCOMMAND --help lists its keys):"
    return [usage, *(f"  {name:<8} {line}" for name, line in lines.items())]
