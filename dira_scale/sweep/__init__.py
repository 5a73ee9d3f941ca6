"""``python -m dira_scale.sweep sweep=NAME cluster=local|slurm|PROFILE``: many runs; ``sweep SUBCOMMAND``: look after
them."""

import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dira_scale.base.errors import UserError, print_error
from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "sweep", "start many runs of these, here or on SLURM", output="folder", torch=False,
    page="dira_scale.sweep.results:write_page", watch_page="dira_scale.sweep.results:watch_page",
    subcommands={
        name: f"dira_scale.sweep.subcommands:{name}" for name in ("status", "logs", "cancel", "retry", "results")
    },
)  # fmt: skip


def sweep(words: Sequence[str], typed: Mapping[str, Mapping[str, Any]], cfg: "DictConfig") -> int:
    """Start the runs of a sweep; ``words``: those that ``cfg`` was composed from; ``typed``: values by phase, key."""
    from dira_scale.sweep.start import start

    return start(words, typed, cfg)


def main(argv: list[str] | None = None) -> int:
    """Run the command with the words ``argv``; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].isalpha():  # a subcommand; Hydra takes `sweep` for a choice of a file
        return entry(COMMAND, partial(sweep, (), {}))([re.sub("^sweep=", "name=", word) for word in words])
    from dira_scale.sweep.start import split

    try:
        kept, typed = split(words)
    except UserError as error:
        print_error("sweep", error)
        return 2
    return entry(COMMAND, partial(sweep, kept, typed))(kept)
