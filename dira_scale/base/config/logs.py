"""Messages of a command to its user, by ``logging``: one line on standard error each.

A command's results (a table, the path of a page) are printed on standard output. Everything else is logged::

    logger = logging.getLogger(__name__)
    logger.warning("%s cannot be written (%s)", path, error)
    logger.error("out of memory", extra={"every_rank": True})  # without it, only rank 0's messages are shown
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dira_scale.base.errors import printable

PACKAGE = "dira_scale"  # the parent of all our loggers


def start(command: str) -> None:
    """From now on, show what the package logs at INFO and above, as messages of ``command``."""
    logger = logging.getLogger(PACKAGE)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _StderrHandler)]:
        logger.removeHandler(handler)  # of an earlier command in this process
    handler = _StderrHandler()
    handler.setFormatter(LineFormatter(command))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def command() -> str | None:
    """The command whose messages are shown; None before :func:`start`."""
    handlers = logging.getLogger(PACKAGE).handlers
    formatters = (handler.formatter for handler in handlers if isinstance(handler, _StderrHandler))
    return next((formatter.command for formatter in formatters if isinstance(formatter, LineFormatter)), None)


class LineFormatter(logging.Formatter):
    """``command: warning: message``, with unprintable characters escaped: names may hold terminal control sequences.

    A traceback follows on separate lines. Only warnings say ``warning``; the command is omitted if empty.
    """

    def __init__(self, command: str = "") -> None:
        super().__init__()
        self.command = command

    def format(self, record: logging.LogRecord) -> str:
        kind = "warning" if record.levelno == logging.WARNING else ""
        lines = [": ".join(part for part in (self.command, kind, printable(record.getMessage())) if part)]
        if record.exc_info:
            lines += [printable(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


class _StderrHandler(logging.Handler):
    """Writes to the current ``sys.stderr``: while rich shows a bar, that is rich's, which writes above the bar."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "every_rank", False) or int(os.environ.get("RANK", "0")) == 0:
            with suppress(OSError):  # a closed terminal must not end a run
                print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Yield a list to which the package's error messages are added meanwhile."""
    messages: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(PACKAGE).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(PACKAGE).removeHandler(handler)
