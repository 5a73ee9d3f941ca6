"""The figures of a run in words and tables.

The page may be mailed, so it shows only the last part of file and folder names, and not the machine's name.
"""

import re
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from dira_scale.reporting.content import PARTS, RunContent
from dira_scale.runs.reader import Row

RESTORERS = {
    "distorted": "the distorted input itself",
    "blur": "a 5 × 5 blur of it",
    "telea": "Telea's inpainting of its zeroed pixels",
    "restored": "this model",
}


@dataclass(frozen=True)
class Headline:
    """One figure at the top of the page."""

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
    """One key of the configuration; ``default`` is None where the value equals the default."""

    key: str
    value: str
    default: str | None


def headlines(run: RunContent) -> list[Headline]:
    """State, restoration, discrimination and speed, where the run has them."""
    found = [_state(run), _restoration(run), _discrimination(run), _speed(run)]
    return [headline for headline in found if headline is not None]


def failure(run: RunContent) -> str:
    """The reason that status.json gives for a failed run; empty if the run did not fail."""
    return _reason(run) or "no reason given" if run.status.get("state") == "failed" else ""


def throughput(run: RunContent) -> list[Throughput]:
    """One row per stage."""
    return [_throughput(run, stage) for stage in run.stages if run.select(stage, "train")]


def restoration_table(run: RunContent) -> list[tuple[str, dict[str, Row]]]:
    """(restorer's description, its row by stage) for every restorer; MSE and SSIM against the clean held-out images."""
    named = [(text, {r["stage"]: r for r in run.restoration if r["restorer"] == n}) for n, text in RESTORERS.items()]
    return [(text, rows) for text, rows in named if rows]


def settings(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, list[Setting]]:
    """The flattened configuration, grouped by first key, with the defaults of changed settings."""
    by_key = dict(_flatten(defaults)) | {"data.shards": "not set"}
    groups: dict[str, list[Setting]] = {}
    for key, value in _flatten(config):
        if key in ("datasets", "order_version", "views_version"):  # the run's identity beyond its settings
            continue
        default = _text(by_key[key]) if key in by_key else "not set"
        group, _, rest = key.partition(".")
        setting = Setting(key, _text(value), None if default == _text(value) else default)
        groups.setdefault(group if rest else "run", []).append(setting)
    return groups


def environment(run: RunContent) -> list[tuple[str, str]]:
    """Known software and hardware of the run, without the host and the command, which names folders."""
    shown = {key: value for key, value in run.environment.items() if key not in ("host", "command")}
    return [(key.replace("_", " "), _text(value) or "none") for key, value in _flatten(shown) if value is not None]


def duration(seconds: float) -> str:
    """``41 s``, ``9 min 12 s``, ``3 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _state(run: RunContent) -> Headline:
    step = run.rows[-1]["step"] if run.rows else 0
    spent = sum(sum(part.seconds.values()) for part in throughput(run))
    state = run.status.get("state", "state unknown")
    reason = "" if failure(run) else _reason(run)
    restarts = len(run.restarts())
    again = f"; resumed {restarts} time{'s' * (restarts > 1)}" if restarts else ""
    epochs = f", {run.rows[-1]['epoch']:.1f} epochs" if run.rows else ""
    return Headline(
        state.capitalize(),
        f"{step} steps{epochs}",
        f"{duration(spent)} of computing{again}{': ' * bool(reason)}{reason}",
    )


def _restoration(run: RunContent) -> Headline | None:
    """The last stage's error relative to the best trivial restorer's."""
    stages = list(dict.fromkeys(row["stage"] for row in run.restoration))
    if not stages:
        return None
    by_name = {row["restorer"]: row for row in run.restoration if row["stage"] == stages[-1]}
    ours = by_name.pop("restored")
    best = min(by_name.values(), key=lambda row: row["mse"])
    return Headline(
        f"{ours['mse'] / best['mse']:.2f} ×",
        "the error of the best trivial restorer",
        f"restoring {ours['n']} held-out images after stage {stages[-1]}: MSE {ours['mse']:.4f}, against "
        f"{best['mse']:.4f} for {RESTORERS[best['restorer']]}",
    )


def _discrimination(run: RunContent) -> Headline | None:
    """Top-1 among the batch's own keys; on held-out images where their batches have at least two."""
    rows = [r for r in run.rows if r.get("chance", 1.0) <= 0.5 and "top1" in r]
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


def _speed(run: RunContent) -> Headline | None:
    stages = throughput(run)
    if not stages:
        return None
    machine, gpus = run.environment, run.environment.get("gpus")
    where = f", on {len(gpus)} × {gpus[0]}" if gpus else f", on {machine['cores']} CPU cores" if machine else ""
    each = ", ".join(f"{t.stage} {t.images_per_second[1]:.0f}" for t in stages)
    return Headline(f"{stages[-1].images_per_second[1]:.0f} images/s", f"in the last stage{where}", f"medians: {each}")


def _throughput(run: RunContent, stage: str) -> Throughput:
    rows = run.select(stage, "train")
    start, end = run.span(stage)
    before = [row["epoch"] for row in run.rows if row["step"] <= start]
    epochs = rows[-1]["epoch"] - max(before, default=0.0)
    speeds = [row["images_per_second"] for row in rows]
    low, high = np.percentile(speeds, [10, 90])
    seconds = {part: sum(row.get(f"time/{part}", 0.0) for row in rows) for part in PARTS}
    return Throughput(stage, end - start, epochs, (float(low), median(speeds), float(high)), seconds)


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of every leaf; two folders with the same last part give the same key twice."""
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
    """The last part of a path; any other text unchanged."""
    return path.rstrip("/").rpartition("/")[2]


def _reason(run: RunContent) -> str:
    """The reason in status.json, with the run's files relative to its folder."""
    text = run.status.get("reason") or ""
    for folder in (run.config.get("run"), run.folder):
        text = text.replace(f"{folder}/", "")
    return _without_folders(text)


def _without_folders(text: str) -> str:
    """``text`` with absolute paths cut to their last parts."""
    return re.sub(r"(?<![\w.])~?/(?=\S)(?:[^\s/]+/)*", "", text)
