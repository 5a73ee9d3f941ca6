"""What a person sees while a run trains: a bar with a time to go on a terminal, else a line every few seconds."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 15.0  # between two lines where there is no terminal


class Bar:
    """Progress over ``total`` optimizer steps; the main process's only. Use as a context manager."""

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self.console = Console(file=sys.stdout, highlight=False)
        self._enabled, self._total, self._start, self._first = enabled, total, time.monotonic(), done
        self._next_line = time.monotonic() + LINE_SECONDS
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        visible = enabled and self.console.is_terminal
        self._bar = Progress(*columns, console=self.console, disable=not visible, speed_estimate_period=120)
        self._task = self._bar.add_task("", total=total, completed=done, note="")

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def shorten(self, steps: int) -> None:
        """A stage ended so many steps early."""
        self._total -= steps

    def update(self, step: int, stage: str) -> None:
        """The run is at ``step``."""
        self._bar.update(self._task, completed=step, description=stage, total=self._total)
        if self._enabled and not self.console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            rate = (step - self._first) / (time.monotonic() - self._start)
            to_go = f"{(self._total - step) / rate / 60:.1f} min to go" if rate else ""
            print(f"{stage} step {step}/{self._total}  {to_go}", flush=True)

    def note(self, text: str) -> None:
        """The figures beside the bar."""
        self._bar.update(self._task, note=text)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._enabled:
            self.console.print(line, markup=False)
