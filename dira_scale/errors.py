"""What a user did wrong, said once and in full."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input: names the file or key, what is wrong and what to do. A verb prints it as one line and exits with 2."""


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean 'batch'?"`` when one of ``options`` is close to ``word``, else an empty string."""
    close = get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
