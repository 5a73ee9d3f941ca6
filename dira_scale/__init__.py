"""Distributed, large-scale, self-supervised pretraining on medical images."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (a package that is missing would be named first)
    raise SystemExit(f"dira_scale needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")

from itertools import pairwise

from dira_scale.base.termination import end_quietly

__version__ = "0.1.0"


def _as_command() -> None:
    """Under ``python -m dira_scale.COMMAND``: Ctrl-C and a closed pipe end it in one line from this first import on."""
    for flag, module in pairwise(sys.orig_argv):
        if flag == "-m" and module.partition(".")[0] == __name__:
            end_quietly(module.rpartition(".")[2])


_as_command()
