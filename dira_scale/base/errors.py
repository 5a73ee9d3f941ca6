"""Errors of the user: one complete message, printed once."""

import os
import re
import sys
import time
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PAUSE = 30.0  # seconds within which a launcher notices that the first process has exited and ends the others


class UserError(Exception):
    """Bad input. Names the file or key, what is wrong, what to do. A command prints it in one line and exits with 2.

    ``add``: words KEY=VALUE with which the command would go on: the whole command is printed with them, too.
    """

    def __init__(self, *args: object, add: tuple[str, ...] = ()) -> None:
        super().__init__(*args)
        self.add = add


class DatasetError(UserError):
    """A sharded dataset is absent, of another version, incomplete or damaged, or lacks what is asked of it.

    ``lacks``: what it would have if it was sharded for it, a word of ``base.config.border.RESHARD``.
    """

    def __init__(self, text: str, lacks: str = "") -> None:
        super().__init__(text)
        self.lacks = lacks


class DimensionsError(DatasetError):
    """A sharded dataset has volumes where images are read, or images where volumes are."""


def require(needs: str, extra: str, *modules: str) -> None:
    """Raise UserError, one line that begins with what ``needs`` the ``extra``, unless its ``modules`` are installed.
    Nothing is imported, which takes seconds."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise UserError(
            f"{needs} the extra `{extra}` ({' and '.join(missing)} not installed): python3 setup/install.py {extra} in "
            f"a checkout, or pip install 'dira_scale[{extra}]'"
        )


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean 'batch'?"`` when one of ``options`` is close to ``word``, else an empty string."""
    close = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def counted(count: int, noun: str) -> str:
    """``1 shard``, ``2,000 shards``, ``2 series``."""
    return f"{count:,} {noun}{'' if count == 1 or noun.endswith('s') else 's'}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h`` or ``2.1 d``."""
    for unit, size, below in (("s", 1, 99), ("min", 60, 99), ("h", 3600, 48)):
        if seconds / size < below:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def print_error(command: str, problem: object) -> None:
    """Print one line, with unprintable characters escaped: untrusted file names may contain terminal commands.

    The first process of a machine prints at once. The others mostly see the same error, and print it only if the
    launcher has not ended them by then.
    """
    if local_rank():
        time.sleep(PAUSE)
    print(f"{command}: {printable(str(problem))}", file=sys.stderr, flush=True)


def print_line(line: object) -> None:
    """Print one line of a command's result, with unprintable characters escaped: it may quote a stranger's text."""
    print(printable(str(line)))


def local_rank() -> int:
    """The number of this process among a run's on this machine. LOCAL_RANK is 0 for all SLURM tasks that see one GPU
    each; under a launcher that SLURM has started, SLURM_LOCALID is."""
    if "RANK" not in os.environ:
        return 0
    return max(int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def without_commands(text: str) -> str:
    """``text`` of lines, with control characters and direction marks escaped; line breaks and tabs stay."""
    return CONTROLS.sub(lambda character: character[0].encode("unicode_escape").decode(), text)


def printable(text: str) -> str:
    """``text`` with control characters, line breaks and direction marks escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
