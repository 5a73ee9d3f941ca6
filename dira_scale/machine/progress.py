"""The progress bar for writing, verifying or searching files."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bar(doing: str, units: str) -> Progress:
    """``verifying ━━━━━━ 566/764 samples 0:00:07``: the remaining time, and when finished the elapsed time.

    ``units`` may name fields of the task: ``{task.fields[speed]}/s``.
    """
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    return Progress(TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(units), remaining)
