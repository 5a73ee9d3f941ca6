"""``python -m dira_scale.sweep sweep=NAME cluster=local|slurm|PROFILE``: many runs; ``sweep VERB``: look after them."""

import re
import sys
from functools import partial

from dira_scale.cluster.subcommands import SUBCOMMANDS
from dira_scale.config.compose import run_verb
from dira_scale.errors import UserError, nearest, print_error

HELP = "also: python -m dira_scale.sweep SUBCOMMAND sweep=NAME KEY=VALUE ... (SUBCOMMAND --help lists its keys):"


def main(argv: list[str] | None = None) -> int:
    """The verb; the first word may be one of ``SUBCOMMANDS``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        named = [re.sub("^sweep=", "name=", word) for word in words[1:]]  # Hydra takes `sweep` for a choice of a file
        return run_verb(f"sweep_{words[0]}", SUBCOMMANDS[words[0]], named)
    if words and words[0].isalpha():
        known = nearest(words[0], SUBCOMMANDS)
        print(f"sweep: no subcommand '{words[0]}'{known or '.'} There are: {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return 2
    from dira_scale.cluster import commands  # submitit

    try:
        kept, literal = commands.split(words)
    except UserError as error:
        print_error("sweep", error)
        return 2
    try:
        return run_verb("sweep", partial(commands.sweep, kept, literal), kept)
    finally:  # --help ends by an exception
        if words in (["-h"], ["--help"]):
            lines = (f"  {name:<8} {(run.__doc__ or '').splitlines()[0]}" for name, run in SUBCOMMANDS.items())
            print("\n".join(["", HELP, *lines]))


if __name__ == "__main__":
    raise SystemExit(main())
