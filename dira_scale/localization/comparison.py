"""A sweep's runs of `localize` in one table: as those of the fine-tuning runs that they read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from dira_scale.evaluation.finetune.comparison import Compared, Evaluated, Finished, compare_runs, figures_of, finished
from dira_scale.localization.results import ACCURACY, BOXES, CONFIG, accuracies
from dira_scale.metrics.figure import MEAN


def compared(runs: Sequence[tuple[Mapping[str, Any], Path]]) -> Compared:
    """The table of ``runs``: of each what varies and its folder. The means over labels have intervals over patients, of
    whom several boxes count together, and tests.

    Raises:
        UserError, OSError, KeyError: a file of a run, or of the run that it read, is missing or damaged.
        ValueError: a setting's runs are of other boxes; a seed is there twice.
    """

    def read(varied: Mapping[str, Any], output: Path) -> Finished:
        config = yaml.safe_load((output / CONFIG).read_text())
        return finished(varied, Path(config["run"]), output)

    return compare_runs([read(varied, output) for varied, output in runs], _evaluated)


def _evaluated(run: Finished) -> Evaluated:
    figures = figures_of(run.output)
    thresholds = [float(name.rpartition("/")[2]) for _, name in figures if name.startswith(f"{MEAN}/")]
    columns = pq.read_table(run.output / BOXES).to_pydict()
    keys = [f"{key} {label}" for key, label in zip(columns["key"], columns["label"], strict=True)]
    statistics = {
        (ACCURACY, name): statistic
        for name, statistic in accuracies(columns["label"], columns["iou"], thresholds).items()
        if name.startswith(f"{MEAN}/")
    }
    return Evaluated(figures, statistics, keys, columns["patient"])
