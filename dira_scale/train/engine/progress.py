"""The progress of a run: a bar with the remaining time on a terminal, else a line every few seconds."""

import io
import sys
import time
from contextlib import suppress
from typing import IO, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dira_scale.base.machine.console import Console

LINE_SECONDS = 15.0  # between two lines without a terminal


class Screen(io.TextIOBase):
    """Standard output that ignores errors: a closed terminal must not end a run."""

    def __init__(self) -> None:
        self._out = sys.stdout  # kept: while a bar is shown, sys.stdout is a proxy that writes to this

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()


class Bar:
    """Progress over ``total`` optimizer steps; the main process's only. Use as a context manager."""

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self.console = Console(file=cast(IO[str], Screen()), highlight=False)
        self._enabled, self._total, self._start, self._first = enabled, total, time.monotonic(), done
        self._next_line, self._note = time.monotonic() + LINE_SECONDS, ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
        )
        visible = enabled and self.console.is_terminal
        self._bar = Progress(*columns, console=self.console, disable=not visible, speed_estimate_period=120)
        self._task = self._bar.add_task("", total=total, completed=done, note="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def set_total(self, total: int) -> None:
        """The run will end at step ``total``, since a stage ended early."""
        self._total = total

    def update(self, step: int, stage: str) -> None:
        self._bar.update(self._task, completed=step, description=stage, total=self._total)
        if self._enabled and not self.console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            rate = (step - self._first) / (time.monotonic() - self._start)
            to_go = f"{(self._total - step) / rate / 60:.1f} min to go" if rate else ""
            parts = f"{stage} step {step}/{self._total}", self._note, to_go
            self.print_line("  ".join(part for part in parts if part))

    def note(self, text: str) -> None:
        """Set the figures beside the bar, or in the lines."""
        self._note = text
        self._bar.update(self._task, note=text)

    def print_line(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._enabled:
            self.console.print(line, markup=False, soft_wrap=True)
