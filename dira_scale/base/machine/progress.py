"""The progress of writing, verifying or searching files: a bar on a terminal, elsewhere a line for each tenth."""

import logging
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
PAUSE = 10.0  # seconds, at least, from one line to the next: what is quick is silent


def bar(doing: str, units: str) -> Progress:
    """``verifying ━━━━━━ 566/764 samples 0:00:07``: the remaining time, and when finished the elapsed time.

    ``units`` may name fields of the task: ``{task.fields[speed]}/s``.
    """
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(units), remaining)
    return _Progress(*columns, doing=doing)


class _Progress(Progress):
    """The progress of one task. In a log file a bar would stay unseen until its end."""

    def __init__(self, *columns: Any, doing: str) -> None:
        super().__init__(*columns)
        self._doing, self._tenth, self._said, self._begun = doing, -1, time.monotonic(), (time.monotonic(), 0.0)

    def add_task(self, *arguments: Any, **options: Any) -> TaskID:
        task = super().add_task(*arguments, **options)
        self._begun = time.monotonic(), self._tasks[task].completed
        self._tenth = self._tenth_of(task)
        return task

    def update(self, task_id: TaskID, *arguments: Any, **options: Any) -> None:
        super().update(task_id, *arguments, **options)
        self._say(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._say(task_id)

    def _tenth_of(self, task_id: TaskID) -> int:
        task = self._tasks[task_id]
        return int(10 * task.completed / task.total) if task.total else 0

    def _say(self, task_id: TaskID) -> None:
        task, now, tenth = self._tasks[task_id], time.monotonic(), self._tenth_of(task_id)
        if self.disable or self.console.is_terminal or not self._tenth < tenth < 10 or now < self._said + PAUSE:
            return
        self._tenth, self._said = tenth, now
        since, first = self._begun
        left = (now - since) * ((task.total or 0) - task.completed) / (task.completed - first) / 60
        logger.info("%s: %d of %d, %.1f min to go", self._doing, task.completed, task.total, left)
