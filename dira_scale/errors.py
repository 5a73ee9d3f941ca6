"""What a user did wrong, said once and in full."""

import os
import sys
import time
from collections.abc import Iterable
from difflib import get_close_matches

PAUSE = 30.0  # seconds in which a launcher has seen the first process's end, and ends the others


class UserError(Exception):
    """Bad input: names the file or key, what is wrong and what to do. A verb prints it as one line and exits with 2."""


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean 'batch'?"`` when one of ``options`` is close to ``word``, else an empty string."""
    close = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def say(verb: str, problem: object) -> None:
    """Print one line; what is not printable in it, by its escapes: names that others gave may speak to a terminal.

    Of several processes on a machine the first says it at once; the others, who mostly see the same, only if nobody has
    ended them meanwhile, as launchers do.
    """
    if int(os.environ.get("LOCAL_RANK", "0")):
        time.sleep(PAUSE)
    print(f"{verb}: {printable(str(problem))}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """``text`` in which control characters, line breaks and marks of direction are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
