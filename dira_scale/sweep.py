"""``python -m dira_scale.sweep sweep=NAME cluster=local|slurm|PROFILE``: many runs; ``sweep VERB``: look after them."""

import sys
from functools import partial

from dira_scale.cluster import commands
from dira_scale.config.compose import run_verb
from dira_scale.errors import UserError, print_error


def main(argv: list[str] | None = None) -> int:
    """The verb; the first word may be one of ``VERBS``."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        own, literal = commands.split(words)
    except UserError as error:
        print_error("sweep", error)
        return 2
    return run_verb("sweep", partial(commands.sweep, own, literal), own)


if __name__ == "__main__":
    raise SystemExit(main())
