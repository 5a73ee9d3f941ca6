"""Call a command by its words, or by those of a subcommand, and end with its exit code.

Hydra and what a command needs are imported when it is called, so that reading the table of commands stays quick.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError, local_rank, nearest, print_error, require
from dira_scale.base.termination import interrupted, leave
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

SUBMISSION = ("cluster", "nodes", "processes", "dry_run")  # the keys of configs/submission.yaml
Function = Callable[["DictConfig"], Any]  # returns an exit code, or nothing


class Main(Protocol):
    """Runs a command with the words after its name, by default those of this process; returns the exit code."""

    def __call__(self, argv: list[str] | None = None) -> int: ...


def entry(
    command: Command,
    function: Function | None = None,
    words: Callable[[Sequence[str]], list[str]] = list,
    subcommands: Mapping[str, Function] | None = None,
) -> Main:
    """Return the ``main`` of a command.

    Args:
        function: in the place of the row's.
        words: rewrites the words before they are parsed.
        subcommands: functions by name, in the place of the row's.
    """

    def chosen(name: str) -> Function:
        return subcommands[name] if subcommands else resolve_name(command.subcommands[name])

    names = [*(subcommands or command.subcommands)]

    def main(argv: list[str] | None = None) -> int:
        typed = list(sys.argv[1:] if argv is None else argv)
        if command.torch and not {"-h", "--help"} & {*typed}:
            try:
                require("it needs", "train", "torch")
            except UserError as error:
                print_error(command.name, error)
                return 2
        if typed and typed[0] in names:
            return run(f"{command.name}_{typed[0]}", chosen(typed[0]), typed[1:])
        if names and typed and typed[0].isalpha():
            there = f"{nearest(typed[0], names) or '.'} There {'are' if names[1:] else 'is'}: {', '.join(names)}"
            print(f"{command.name}: no subcommand '{typed[0]}'{there}", file=sys.stderr)
            return 2
        if command.processes:
            return _of_processes(command, typed)

        def alone(config: "DictConfig") -> Any:
            command.check_inputs(config)
            return (function or command.carry_out)(config)

        try:
            return run(command.name, alone, words(typed))
        finally:  # --help ends by an exception
            if names and typed in (["-h"], ["--help"]):
                usage = f"also: python -m dira_scale.{command.name} SUBCOMMAND KEY=VALUE ..."
                print(f"\n{usage} (SUBCOMMAND --help lists its keys):")
                for name in names:
                    print(f"  {name:<8} {(chosen(name).__doc__ or '').splitlines()[0]}")

    return main


def run(name: str, function: Function, words: list[str]) -> int:
    """Compose the configuration of ``configs/NAME.yaml``, call ``function`` with it and return the exit code.

    A ``UserError`` is printed as one line (2), and so is Ctrl-C (75).
    """
    from dira_scale.base.config.compose import compose

    return _ended(name, words, lambda: function(compose(name, words)))


def _of_processes(command: Command, typed: list[str]) -> int:
    """Run a command of which each process exits through here, or submit its run.

    With several processes none looks at the inputs: what only one of them lacks is reported once they have met.
    """
    from dira_scale.base.config.compose import compose
    from dira_scale.base.config.overrides import key_of

    keys = SUBMISSION if command.trains else ()
    own = [word for word in typed if "=" in word and key_of(word).partition(".")[0] in keys]
    words = [word for word in typed if word not in own]
    try:
        config = compose(command.name, words)
        submission = resolve_name(command.submission).chosen(own, words) if own else None
        if not any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
            command.check_inputs(config)
    except UserError as error:
        return _refused(command.name, typed, error)
    except SystemExit:  # after --help or --cfg
        if keys and {"-h", "--help"} & {*words}:
            print("\non SLURM by cluster=slurm, or a profile of your own (docs/how-to/slurm.md); cluster=local: here")
            compose("submission", ["cluster=slurm", "--help"])
        raise
    if submission:
        submit = resolve_name(command.submission).submit_run
        return _ended(command.name, typed, lambda: submit(command.name, words, config, submission))
    return leave(lambda: _ended(command.name, words, lambda: command.carry_out(config)))


def _ended(name: str, words: list[str], action: Callable[[], Any]) -> int:
    """The exit code of ``action``, which returns one or nothing, as the command ``name`` with these ``words``."""
    from dira_scale.base.config import logs

    title = name.replace("_", " ")
    logs.start(title)
    try:
        return action() or 0
    except (UserError, ArgumentError) as error:
        return _refused(title, words, error)
    except KeyboardInterrupt:
        return interrupted(title)


def _refused(title: str, words: list[str], error: UserError | ArgumentError) -> int:
    """Print the error, and the whole command that it advises, if any; return the exit code."""
    from dira_scale.base.config.border import advised
    from dira_scale.base.config.overrides import key_of

    print_error(title, advised(error))
    if isinstance(error, UserError) and error.add and local_rank() == 0:
        replaced = {key_of(word) for word in error.add}
        kept = [word for word in words if key_of(word) not in replaced]
        print(f"  python -m dira_scale.{title} {shlex.join([*kept, *error.add])}", file=sys.stderr)
    return 2
