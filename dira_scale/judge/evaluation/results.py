"""``results.json``: what a network reached on the splits of labelled datasets. Imports no torch.

::

    figures             by split, a row for each figure (``dataset.metrics.figure.Figure``)
    interval            how their intervals were computed
    compared            metric and name of those by which the task compares runs
    thresholds          by label, chosen on the validation split
    never_answered      by split, the classes that cases have and no answer has
    calibrated          thresholds and figures with ``temperatures``, where these were fitted
    step, splits        the checkpoint's, and what the splits are called in the dataset
    norm_passes         where BatchNorm's statistics were averaged over so many training batches
    leak                whether patients that are evaluated on were trained on
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from dira_scale.base.arguments import Length
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.figure import Figure, plain
from dira_scale.train.runs.files import read_json, read_yaml
from dira_scale.train.runs.shape import STEP

FILE = "results.json"
SHOWN = 3  # figures in a line
Number = float | Literal["infinity"] | None  # as metrics.figure.plain writes it
ByLabel = dict[str, Number]


class FigureRow(TypedDict):
    """A figure, as a stranger's file has it."""

    metric: str
    name: str
    value: Number
    n: int
    left_out: int
    patients: int
    positives: int | None
    convention: str
    both_empty: int | None
    interval: NotRequired[Annotated[list[float], Length(2)] | None]
    share: NotRequired[bool]


class IntervalSettings(TypedDict):
    """The settings with which ends of intervals were computed."""

    level: float


class Judged(TypedDict, total=False):
    """The thresholds and figures that were computed from a checkpoint's predictions."""

    thresholds: ByLabel | None
    figures: dict[str, list[FigureRow]]


class Results(Judged, total=False):
    """``results.json``. What is not named here is kept as it is."""

    step: STEP
    splits: dict[str, str]
    interval: IntervalSettings
    compared: list[Annotated[list[str], Length(2)]]
    never_answered: dict[str, list[str]]
    temperatures: ByLabel | None
    calibrated: Judged


def read_results(folder: Path) -> dict[str, Any]:
    """Return what is written in ``folder``, the rows of ``figures`` as Figures; empty before that.

    Raises UserError naming the key of what it cannot be.
    """
    empty: dict[str, Any] = {}
    content = read_json(folder / FILE, empty, Results)
    named = {f"splits.{split}" for split in content.get("splits", ())} | content.keys()
    shown = {f"splits.{split}" for split in content.get("figures", ())} | ({"step", "figures"} if content else set())
    if missing := sorted(shown - named):
        raise UserError(f"{folder / FILE} is damaged ({missing[0]} is missing): restore the file")
    return with_figures(content)


def with_figures(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``results.json`` says, the rows of ``figures`` as Figures."""
    read = dict(content)
    if "figures" in content:
        read["figures"] = {split: [*map(Figure.of_json, rows)] for split, rows in content["figures"].items()}
    if "calibrated" in content:
        read["calibrated"] = with_figures(content["calibrated"])
    return read


def overall(figures: Sequence[Figure], best: str) -> list[Figure]:
    """Return of a split's figures the first that are over all labels or classes, ``best`` before the others.

    ``best``: the metric by which checkpoints are compared, as a description names it.
    """
    over_all = {figure.metric: figure for figure in figures if figure.overall and not math.isnan(figure.value)}
    usual = [figure for metric, figure in over_all.items() if " in cases " not in metric]
    return sorted(usual, key=lambda figure: figure.metric.casefold() != best.casefold())[:SHOWN]


def evaluated(output: Path) -> tuple[Iterator[tuple[str, float]], Mapping[str, Any], set[str]]:
    """Return the figures of a finished folder for sweeps, as ``SPLIT/METRIC/NAME``, its configuration, and the names of
    those by which the task compares runs. Raises UserError for a fine-tuning that was not evaluated."""
    if "figures" not in (content := read_results(output)):
        raise UserError(f"it has no {FILE}: steps= ended it before its last step")
    figures = (
        (f"{split}/{figure.metric}/{figure.name}", plain(figure.value))
        for split, of in content["figures"].items() for figure in of if plain(figure.value) is not None
    )  # fmt: skip
    test = content["figures"].get("test", ())
    keys = content.get("compared", [figure.key for figure in test if figure.overall])  # files of before have none
    compared = {f"test/{metric}/{name}" for metric, name in keys}
    return figures, read_yaml(output / "config.yaml"), compared
