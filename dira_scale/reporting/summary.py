"""The figures of a run in words and tables, all computed from its record.

The page may be mailed: of files and folders it tells the last name only, and of the machine not its name.
"""

import re
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from dira_scale.reporting.record import PARTS, Record
from dira_scale.runs.reader import Row

RESTORERS = {
    "distorted": "the distorted input itself",
    "blur": "a 5 × 5 blur of it",
    "telea": "Telea's inpainting of its zeroed pixels",
    "restored": "this model",
}


@dataclass(frozen=True)
class Headline:
    """One figure that stands at the top."""

    figure: str
    what: str
    detail: str


@dataclass(frozen=True)
class Throughput:
    """How fast a stage ran and where its time went."""

    stage: str
    steps: int
    epochs: float
    images_per_second: tuple[float, float, float]  # 10th, 50th, 90th percentile over rows
    seconds: dict[str, float]  # by part


@dataclass(frozen=True)
class Setting:
    """One key of the configuration; ``default`` is None where it is the default's."""

    key: str
    value: str
    default: str | None


def headlines(record: Record) -> list[Headline]:
    """State, restoration, discrimination and speed: as many of the four as the record has."""
    found = [_state(record), _restoration(record), _discrimination(record), _speed(record)]
    return [headline for headline in found if headline is not None]


def failure(record: Record) -> str:
    """Why the run failed, in its own words; nothing where it did not."""
    return _reason(record) or "it does not say why" if record.status.get("state") == "failed" else ""


def throughput(record: Record) -> list[Throughput]:
    """One row a stage."""
    return [_throughput(record, stage) for stage in record.stages if record.select(stage, "train")]


def restoration_table(record: Record) -> list[tuple[str, dict[str, Row]]]:
    """(restorer in words, its row by stage) for every restorer; MSE and SSIM against the clean held-out images."""
    named = [(text, {r["stage"]: r for r in record.restoration if r["restorer"] == n}) for n, text in RESTORERS.items()]
    return [(text, rows) for text, rows in named if rows]


def settings(config: dict[str, Any], verbs_own: dict[str, Any]) -> dict[str, list[Setting]]:
    """The configuration flattened, by its first key; what differs from the verb's own defaults carries these."""
    defaults = dict(_flatten(verbs_own)) | {"data.shards": "not set"}
    groups: dict[str, list[Setting]] = {}
    for key, value in _flatten(config):
        if key in ("datasets", "order_version", "views_version"):  # the run's identity beyond its settings
            continue
        default = _text(defaults[key]) if key in defaults else "not set"
        group, _, rest = key.partition(".")
        setting = Setting(key, _text(value), None if default == _text(value) else default)
        groups.setdefault(group if rest else "run", []).append(setting)
    return groups


def environment(record: Record) -> list[tuple[str, str]]:
    """What the run was computed with, as far as it is known; without the host and the command with its folders."""
    told = {key: value for key, value in record.environment.items() if key not in ("host", "command")}
    return [(key.replace("_", " "), _text(value) or "none") for key, value in _flatten(told) if value is not None]


def duration(seconds: float) -> str:
    """``41 s``, ``9 min 12 s``, ``3 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _state(record: Record) -> Headline:
    step = record.rows[-1]["step"] if record.rows else 0
    spent = sum(sum(part.seconds.values()) for part in throughput(record))
    state = record.status.get("state", "state unknown")
    reason = "" if failure(record) else _reason(record)
    restarts = len(record.restarts())
    again = f"; gone on after {restarts} stop{'s' * (restarts > 1)}" if restarts else ""
    epochs = f", {record.rows[-1]['epoch']:.1f} epochs" if record.rows else ""
    return Headline(
        state.capitalize(),
        f"{step} steps{epochs}",
        f"{duration(spent)} of computing{again}{': ' * bool(reason)}{reason}",
    )


def _restoration(record: Record) -> Headline | None:
    """The last stage's error against that of the best restorer that learns nothing."""
    stages = list(dict.fromkeys(row["stage"] for row in record.restoration))
    if not stages:
        return None
    by_name = {row["restorer"]: row for row in record.restoration if row["stage"] == stages[-1]}
    ours = by_name.pop("restored")
    best = min(by_name.values(), key=lambda row: row["mse"])
    return Headline(
        f"{ours['mse'] / best['mse']:.2f} ×",
        "the error of the best trivial restorer",
        f"restoring {ours['n']} held-out images after stage {stages[-1]}: MSE {ours['mse']:.4f}, against "
        f"{best['mse']:.4f} for {RESTORERS[best['restorer']]}",
    )


def _discrimination(record: Record) -> Headline | None:
    """Top-1 among the batch's own keys, held out where there is a batch to be lost in."""
    rows = [r for r in record.rows if r.get("chance", 1.0) <= 0.5 and "top1" in r]
    held_out = [r for r in rows if r["split"] == "val"]
    if not rows:
        return None
    row = (held_out or rows)[-1]
    where = "held-out images" if held_out else "training images"
    times = row["top1"] / row["chance"]
    return Headline(
        f"{times:.{0 if times >= 10 else 1}f} × chance",
        "finding an image's other view",
        f"top-1 {row['top1']:.2f} among the batch's own keys, {where}, step {row['step']} (stage {row['stage']})",
    )


def _speed(record: Record) -> Headline | None:
    stages = throughput(record)
    if not stages:
        return None
    here, gpus = record.environment, record.environment.get("gpus")
    where = f", on {len(gpus)} × {gpus[0]}" if gpus else f", on {here['cores']} CPU cores" if here else ""
    each = ", ".join(f"{t.stage} {t.images_per_second[1]:.0f}" for t in stages)
    return Headline(f"{stages[-1].images_per_second[1]:.0f} images/s", f"in the last stage{where}", f"medians: {each}")


def _throughput(record: Record, stage: str) -> Throughput:
    rows = record.select(stage, "train")
    start, end = record.span(stage)
    before = [row["epoch"] for row in record.rows if row["step"] <= start]
    epochs = rows[-1]["epoch"] - max(before, default=0.0)
    speeds = [row["images_per_second"] for row in rows]
    low, high = np.percentile(speeds, [10, 90])
    seconds = {part: sum(row.get(f"time/{part}", 0.0) for row in rows) for part in PARTS}
    return Throughput(stage, end - start, epochs, (float(low), median(speeds), float(high)), seconds)


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of every leaf; two folders of one name give one key twice."""
    if isinstance(value, dict) and value:
        return [pair for name, child in value.items() for pair in _flatten(child, f"{prefix}{_name(name)}.")]
    return [(prefix[:-1], value)]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else _name(str(value))


def _name(path: str) -> str:
    """The last part of a path; any other text whole."""
    return path.rstrip("/").rpartition("/")[2]


def _reason(record: Record) -> str:
    """What status.json says; files of the run as they lie in its folder."""
    text = record.status.get("reason") or ""
    for folder in (record.config.get("run"), record.folder):
        text = text.replace(f"{folder}/", "")
    return _without_folders(text)


def _without_folders(text: str) -> str:
    """A sentence with the absolute paths in it cut to their last parts."""
    return re.sub(r"(?<![\w.])~?/(?=\S)(?:[^\s/]+/)*", "", text)
