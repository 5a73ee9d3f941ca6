"""End a command: without a traceback on Ctrl-C or a closed pipe; one of several processes at once."""

import atexit
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from dira_scale.base.errors import local_rank
from dira_scale.commands import COMMANDS

_at_once = False


def end_at_once() -> None:
    """Have :func:`leave` skip Python's shutdown, of this process from now on.

    Freeing what another thread holds takes the interpreter's lock, and a thread that asks for it during the shutdown
    aborts the process with its own message and exit code.
    """
    global _at_once
    _at_once = True


def leave(main: Callable[[], int]) -> int:
    """Return ``main()``'s exit code; after :func:`end_at_once`, exit with it right here."""
    try:
        code = main()
    except Exception:
        if not _at_once:
            raise
        traceback.print_exc()
        code = 1  # as Python would
    if _at_once:
        with suppress(OSError):  # the pipe may be closed
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def interrupted(command: str) -> int:
    """Say in one line that Ctrl-C has ended ``command``; its exit code, 75 (train/runs/exit_codes.py)."""
    if local_rank() == 0:
        row = COMMANDS.get(command.partition(" ")[0])  # of its subcommands too
        kept = "; finished work is kept" if row and row.parts else ""
        print(f"\n{command}: interrupted{kept}; run the same command again", file=sys.stderr, flush=True)
    return 75


def end_quietly(command: str) -> None:
    """From now on, two ends of this process leave no traceback: Ctrl-C, wherever it comes, even while Python imports
    packages (75 and one line), and a reader that closes standard output, as ``head`` does (the signal SIGPIPE)."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            code = interrupted(command)
            drop_unread()
            os._exit(code)  # Python would exit with 130
        if issubclass(kind, BrokenPipeError):
            output = select.poll()
            output.register(sys.stdout.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)):  # this pipe, no other
                drop_unread()
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGPIPE)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
    atexit.register(drop_unread)  # before Python flushes, which would fail with a traceback and exit code 120


def drop_unread() -> None:
    """Flush standard output; what nobody reads any more is dropped."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
