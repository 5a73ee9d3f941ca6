"""The papers' published figures (``papers.csv``: facts, typed from their tables), to stand beside ours."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError, nearest
from dira_scale.judge.pages.tables.cells import Published

KEYS = ("paper", "table", "task", "metric", "pretraining")
CITATIONS = {
    "DiRA": "Haghighi et al., DiRA: Discriminative, Restorative, and Adversarial Learning, CVPR 2022",
    "PCRL": "Zhou et al., Preservational Learning Improves Self-supervised Medical Image Models, ICCV 2021",
}


@dataclass(frozen=True)
class PaperTable:
    """The cells of a sweep that stand in a paper's table.

    Attributes:
        paper, table: as in ``papers.csv``: DiRA, Table 1.
        tasks: phase of the sweep: the table's task.
        rows: phase of pretraining, or another value of ``init``: the table's row.
    """

    paper: str
    table: str
    tasks: Mapping[str, str]
    rows: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raises UserError for a paper, table, task or row that there is not."""
        published = figures()
        _known("paper", self.paper, {key[0] for key in published})
        _known("table", self.table, {key[1] for key in published if key[0] == self.paper})
        keys = [key for key in published if key[:2] == (self.paper, self.table)]
        for task in self.tasks.values():
            _known("tasks", task, {key[2] for key in keys})
        for row in self.rows.values():
            _known("rows", row, {key[4] for key in keys} | {"Random"})

    def metric(self, task: str) -> str:
        """Return the metric of a task, without the threshold that it may have: ``AUC``, ``Dice``, ``IoU`` (also of
        ``mIoU``: all are means over classes), ``Accuracy``."""
        keys = (key for key in figures() if key[:3] == (self.paper, self.table, task))
        return str(next(keys)[3]).partition("@")[0].removeprefix("m")

    def figure(self, task: str, row: str, fraction: float, column: str = "") -> Published | None:
        """Return the figure of a share of the labels; None if the paper has none. ``column``: of ours, which says the
        IoU where there is one (``IoU ≥ 10 %``)."""
        at = column.partition("IoU ≥ ")[2].removesuffix(" %")
        for (paper, table, its_task, metric, its_row, percent), figure in figures().items():
            same = (paper, table, its_task, its_row) == (self.paper, self.table, task, row)
            if same and abs(percent - 100 * fraction) < 1e-6 and metric.partition("@IoU>=")[2].removesuffix("%") == at:
                return figure
        return None


@cache
def figures() -> Mapping[tuple[Any, ...], Published]:
    """By paper, table, task, metric, pretraining and percent of the labels (100 where the paper names none)."""
    with Path(__file__).with_name("papers.csv").open(newline="") as file:
        return {
            (*(r[key] for key in KEYS), float(r["label_fraction_percent"] or 100)):
            Published(float(r["mean"]), float(r["std"]) if r["std"] else None)
            for r in csv.DictReader(file)
        }  # fmt: skip


def _known(key: str, value: str, choices: set[str]) -> None:
    if value not in choices:
        listed = sorted(choices)
        raise UserError(f"tables.{key}={value}: there are {', '.join(listed)}{nearest(value, listed)}")
