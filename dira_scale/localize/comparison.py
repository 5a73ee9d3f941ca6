"""A sweep's runs of `localize` in one table: as those of the fine-tuning runs that they read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dira_scale.evaluation.comparison import Compared, Evaluated, Finished, compare_runs, figures_of, finished_by
from dira_scale.localize.results import ACCURACY, BOXES, accuracies
from dira_scale.metrics.figure import MEAN, Key
from dira_scale.metrics.statistics.of_cases import Statistics
from dira_scale.metrics.statistics.weighted import Statistic


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of ``runs``: of each what varies and its folder. The means over labels have intervals over patients, of
    whom several boxes count together, and tests.

    Raises:
        UserError, OSError, KeyError: a file of a run, or of the run that it read, is missing or damaged.
        ValueError: a setting's runs are of other boxes; a seed is there twice.
    """

    return compare_runs([finished_by(varied, output) for varied, output in runs], _evaluated)


def _evaluated(run: Finished) -> Evaluated:
    each = figures_of(run.output)
    figures = dict(sorted(each.items(), key=lambda item: not item[0][1].startswith(f"{MEAN}/")))  # means first
    thresholds = [float(name.rpartition("/")[2]) for _, name in figures if name.startswith(f"{MEAN}/")]
    columns = pq.read_table(run.output / BOXES).to_pydict()
    keys = [f"{key} {label}" for key, label in zip(columns["key"], columns["label"], strict=True)]
    statistics: dict[Key, Statistic] = {
        (ACCURACY, name): statistic
        for name, statistic in accuracies(columns["label"], columns["iou"], thresholds).items()
        if name.startswith(f"{MEAN}/")
    }
    return Evaluated(figures, Statistics(statistics, keys, columns["patient"]))
