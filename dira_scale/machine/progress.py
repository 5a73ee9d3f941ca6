"""The bar that a person sees while files are written, looked at or searched."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def bar(doing: str, units: str) -> Progress:
    """``verifying ━━━━━━ 566/764 samples 0:00:07``: the time that is left, in the end the time that it took.

    ``units`` may name fields of the task: ``{task.fields[speed]}/s``.
    """
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    return Progress(TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(units), remaining)
