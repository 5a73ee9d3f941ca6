"""How a verb speaks to the person who typed it: by ``logging``, a line of standard error for each message.

What a verb makes (a table, the path of a page) it prints on standard output. All else is logged::

    logger = logging.getLogger(__name__)
    logger.warning("%s cannot be written (%s)", path, error)
    logger.error("out of memory", extra={"every_rank": True})  # else only rank 0's messages are shown
"""

import logging
import os
import sys
from contextlib import suppress

from dira_scale.errors import printable

PACKAGE = "dira_scale"  # the logger above all of ours


def start(verb: str) -> None:
    """Show from now on what the package logs, from INFO on, as messages of ``verb``."""
    logger = logging.getLogger(PACKAGE)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Screen)]:
        logger.removeHandler(handler)  # of an earlier verb of this process
    screen = _Screen()
    screen.setFormatter(Line(verb))
    screen.addFilter(_is_of_rank_0)
    logger.addHandler(screen)
    logger.setLevel(logging.INFO)


class Line(logging.Formatter):
    """``verb: warning: message``; what is not printable, by its escapes: a name from elsewhere may speak to a terminal.

    A traceback follows on lines of its own. ``warning`` stands in warnings alone, the verb where there is one.
    """

    def __init__(self, verb: str = "") -> None:
        super().__init__()
        self.verb = verb

    def format(self, record: logging.LogRecord) -> str:
        """``record`` as text."""
        kind = "warning" if record.levelno == logging.WARNING else ""
        lines = [": ".join(part for part in (self.verb, kind, printable(record.getMessage())) if part)]
        if record.exc_info:
            lines += [printable(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


class _Screen(logging.Handler):
    """Standard error as it is at each message: while rich shows a bar, rich stands there, and writes above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a terminal that has gone away ends no run
            print(self.format(record), file=sys.stderr, flush=True)


def _is_of_rank_0(record: logging.LogRecord) -> bool:
    return getattr(record, "every_rank", False) or int(os.environ.get("RANK", "0")) == 0
