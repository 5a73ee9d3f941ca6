"""The tables of a finished prediction."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dira_scale import __version__
from dira_scale.archive.outcome import most_common
from dira_scale.archive.output import beside
from dira_scale.base.errors import UserError, counted, print_line
from dira_scale.base.storage.atomic import write_atomic, write_json
from dira_scale.base.storage.owned import REJECTED
from dira_scale.base.storage.tables import harmless
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.evaluation.journal import FILE as UNFINISHED
from dira_scale.predict.config import ABOUT, MASKS
from dira_scale.predict.images import ImageRow, PredictedImages
from dira_scale.train.data.batch import UNITS

PREDICTIONS, QUARANTINE = "predictions.csv", "quarantine.csv"


def write_quarantine(out: Path, refused: Mapping[str, Mapping[str, str]]) -> None:
    """``refused``: stage and reason by key."""
    _write(out / QUARANTINE, ["key", "stage", "reason"], ([k, r["stage"], r["reason"]] for k, r in refused.items()))


def write_rejected_names(out: Path, refused: Iterable[tuple[str, Mapping[str, str]]]) -> Path:
    """Write the table by the files' names, which may identify patients: beside ``out``, readable by its owner only."""
    path = beside(out, "rejected.csv")
    _write(path, REJECTED, ([name, row["stage"], row["reason"]] for name, row in refused), private=True)
    return path


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], private: bool = False) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(harmless, [header, *rows]))
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"), private=private)


def finish(out: Path, trained: TrainedRun, images: PredictedImages, done: dict[str, ImageRow], about: ImageRow) -> None:
    """Write the tables and the description, and tell what was done. Raises UserError if nothing could be used."""
    rows = [done[key] for key in images.keys]
    refused = {key: row for key, row in zip(images.keys, rows, strict=True) if "reason" in row}
    usable = {key: row for key, row in zip(images.keys, rows, strict=True) if "reason" not in row}
    names = [(name, row) for number, row in enumerate(rows) if "reason" in row and (name := images.name(number))]
    table = write_rejected_names(out, names) if names else out / "quarantine.csv"
    reasons = Counter(row["reason"] for row in refused.values())
    why = ", ".join(f"{count} x {reason}" for reason, count in most_common(reasons))
    if not usable:
        (out / UNFINISHED).unlink()
        raise UserError(f"none of the {len(rows)} {UNITS[len(trained.size)]} is usable: {why} (full list: {table})")
    write_quarantine(out, refused)
    supervision, where = trained.supervision, out / MASKS
    if supervision.pooled:
        values = torch.tensor([row["values"] for row in usable.values()], dtype=torch.float64)
        answers = supervision.answers(values, trained.chosen).tolist()
        lines = ([key, *map(repr, row)] for key, row in zip(usable, answers, strict=True))
        where = out / PREDICTIONS
        _write(where, ["key", *supervision.columns(trained.chosen)], lines)
    judged = ("thresholds", "temperatures", "calibrated_thresholds")
    counts = {"predicted": len(usable), "quarantined": len(refused)}
    network = {"dira_scale": __version__, "outputs": [*supervision.outputs]}
    written = about | network | {name: trained.about[name] for name in judged} | counts
    write_json(out / ABOUT, written)
    (out / UNFINISHED).unlink()
    print_line(f"{where}: {counted(len(usable), UNITS[len(trained.size)][:-1])}")
    if refused:
        print_line(f"quarantined: {len(refused)} ({why}; all in {table})")
