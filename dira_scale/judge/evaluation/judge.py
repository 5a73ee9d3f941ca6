"""Judging the cases of splits: choices on the validation split, figures with intervals, files of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dira_scale.base.storage.atomic import write_atomic
from dira_scale.dataset.metrics.cases import CASES, write_cases
from dira_scale.dataset.metrics.figure import plain
from dira_scale.dataset.metrics.statistics.bootstrap import ABOUT, with_intervals
from dira_scale.judge.tasks.task import Chosen, Supervision

Cases = Mapping[str, Sequence[Any]]  # of all processes, by split


def choose(supervision: Supervision, validated: Sequence[Any] | None, temperature: bool = False) -> Chosen:
    """Return what all cases of the validation split choose; nothing without these."""
    if validated is None:
        return Chosen()
    chosen = supervision.chosen(validated)
    if not temperature:
        return chosen
    fitted = supervision.temperatures(validated)
    again = supervision.chosen(supervision.calibrated(validated, fitted))
    return replace(chosen, temperatures=fitted, calibrated_thresholds=again.thresholds)


def judged(supervision: Supervision, cases: Cases, chosen: Chosen) -> dict[str, Any]:
    """Return what ``results.json`` says of all processes' ``cases``: with temperatures the figures without and with
    these."""
    content = _judged(supervision, cases, chosen)
    if chosen.temperatures is None:
        return content
    scaled = {split: supervision.calibrated(of, chosen.temperatures) for split, of in cases.items()}
    again = _judged(supervision, scaled, Chosen(chosen.calibrated_thresholds))
    return content | {"temperatures": dict(chosen.temperatures), "calibrated": again}


def _judged(supervision: Supervision, cases: Cases, chosen: Chosen) -> dict[str, Any]:
    figures = {
        split: with_intervals(supervision.figures(of, chosen), supervision.statistics(of, chosen))
        for split, of in cases.items()
    }
    return {
        "thresholds": plain(None if chosen.thresholds is None else dict(chosen.thresholds)),
        "interval": dict(ABOUT),
        "compared": [[*key] for key in supervision.compared],
        "never_answered": {split: supervision.never_answered(of) for split, of in cases.items()},
        "figures": {split: [figure.as_json() for figure in of] for split, of in figures.items()},
    }


def write_split(folder: Path, split: str, cases: Sequence[Any], pictures: Mapping[str, bytes]) -> None:
    """Write the rows of a split, ``cases/SPLIT.parquet``, and its pictures, ``cases/SPLIT-0.jpg`` …"""
    (folder / CASES).mkdir(exist_ok=True)
    for left in (folder / CASES).glob(f"{split}-*.jpg"):  # by a killed call, perhaps of another split
        left.unlink()
    for number, image in enumerate(pictures.values()):
        write_atomic(folder / CASES / f"{split}-{number}.jpg", image)
    write_cases(folder / CASES / f"{split}.parquet", cases)
