"""A sweep's runs of `evaluate` in one table: as those of the fine-tuning runs that they read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dira_scale.evaluation.comparison import Compared, compare_runs, evaluated, finished_by


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of ``runs``: of each what varies and its folder.

    Raises:
        UserError, OSError, KeyError: a file of a run, or of the run that it read, is missing or damaged.
        ValueError: a setting's runs are of several datasets; a seed is there twice.
    """
    return compare_runs([finished_by(varied, output) for varied, output in runs], evaluated)
