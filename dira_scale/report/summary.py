"""The figures of a run in words and tables.

The page may be mailed, so it shows only the last part of file and folder names, and not the machine's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from dira_scale.base.config.keys import typed
from dira_scale.report.content import LOADER_PARTS, PARTS, RunContent
from dira_scale.train.runs.reader import RunRow

RESTORERS = {
    "mean": "each image's own mean",
    "distorted": "the distorted input itself",
    "blur": "a 5 × 5 blur of it",
    "telea": "Telea's inpainting of its zeroed pixels",
    "nearest": "the nearest visible voxel in hidden ones",
    "gaussian": "a Gaussian mean of visible voxels in hidden ones",
    "restored": "this model",
}
BEYOND_SETTINGS = ("datasets", "selection", "repeats", "facts", "leak")  # of a run's identity
BASELINES = {  # in a headline
    "mean": "the image's own mean",
    "distorted": "the distorted input", "blur": "a plain blur", "telea": "plain inpainting",
    "nearest": "the nearest voxel", "gaussian": "a Gaussian mean",
}  # fmt: skip


@dataclass(frozen=True)
class Throughput:
    """The speed of a stage, and where its time went."""

    stage: str
    terms: list[str]
    steps: int
    epochs: float
    fraction: float | None  # of the planned epochs; None if they are unknown
    speed: tuple[float, float, float]  # units per second: 10th, 50th, 90th percentile over rows
    seconds: dict[str, float]  # by part
    loading: dict[str, float]  # milliseconds of the loader's threads for a unit, by part; empty if unknown

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def share(self, part: str) -> float:
        """The part's share of the time; 0 if no time was logged."""
        return self.seconds[part] / (self.total or 1)


@dataclass(frozen=True)
class Setting:
    """One key of the configuration; ``default`` is None where the value equals the default."""

    key: str
    value: str
    default: str | None


def failure(run: RunContent) -> str:
    """The reason that status.json gives for a failed run; empty if the run did not fail."""
    return run.reason() or "no reason given" if run.status.get("state") == "failed" else ""


def throughput(run: RunContent) -> list[Throughput]:
    """One row per stage."""
    stages, rate = list[Throughput](), run.description.rate
    for stage in run.stages:
        if not (rows := run.select(stage, "train")):
            continue
        start, end = run.span(stage)
        before = [row["epoch"] for row in run.rows if row["step"] <= start]
        epochs = rows[-1]["epoch"] - max(before, default=0.0)
        speeds = [row[rate] for row in rows]
        low, high = np.percentile(speeds, [10, 90])
        seconds = {part: sum(row.get(f"time/{part}", 0.0) for row in rows) for part in PARTS}
        units = sum(row[rate] * (row.get("time/step", 0.0) + row.get("time/data", 0.0)) for row in rows)
        loading = {part: sum(row.get(f"loader/{part}", 0.0) for row in rows) for part in LOADER_PARTS}
        loading = {part: 1000 * value / units for part, value in loading.items() if units and value}
        described = run.description.stage(stage)
        planned = described.epochs if described else 0
        stages.append(Throughput(
            stage, run.terms(stage), end - start, epochs, epochs / planned if planned else None,
            (float(low), median(speeds), float(high)), seconds, loading,
        ))  # fmt: skip
    return stages


def restoration_table(run: RunContent) -> list[tuple[str, dict[str, RunRow]]]:
    """(restorer's description, its row by stage) for every restorer; MSE and SSIM against the clean held-out images."""
    named = [(text, {r["stage"]: r for r in run.restoration if r["restorer"] == n}) for n, text in RESTORERS.items()]
    return [(text, rows) for text, rows in named if rows]


def differing(values: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The flattened keys in which these nested mappings differ, with the value in each."""
    flat = [dict(_flatten(each)) for each in values]
    keys = [key for key in dict.fromkeys(key for each in flat for key in each) if key != "run" and _is_setting(key)]
    rows = {key: [each.get(key, "not set") for each in flat] for key in keys}
    texts = {}
    for key, row in rows.items():
        kinds = [value for i, value in enumerate(row) if value not in row[:i]]
        numbered = len({*map(_text, row)}) < len(kinds)  # folders that end alike
        if len(kinds) > 1:
            texts[key] = [_text(value) + (f" ({kinds.index(value) + 1})" if numbered else "") for value in row]
    return texts


def settings(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, list[Setting]]:
    """The flattened configuration, grouped by first key, with the defaults of changed settings."""
    by_key = dict(_flatten(defaults)) | {"data.shards": "not set"}
    groups: dict[str, list[Setting]] = {}
    for key, value in _flatten(config):
        if not _is_setting(key):
            continue
        default = _text(by_key[key]) if key in by_key else "not set"
        group, _, rest = key.partition(".")
        setting = Setting(key, _text(value), None if default == _text(value) else default)
        groups.setdefault(group if rest else "run", []).append(setting)
    return groups


def _is_setting(key: str) -> bool:
    return key.partition(".")[0] not in BEYOND_SETTINGS and not key.endswith("_version")


def shown_environment(run: RunContent) -> dict[str, Any]:
    """The run's software and hardware, without the host and the command, which names folders."""
    shown = {key: value for key, value in run.environment.items() if key not in ("host", "command")}
    return {
        key: ", ".join(map(str, value)) or "none" if isinstance(value, list) else value for key, value in shown.items()
    }


def environment(run: RunContent) -> list[tuple[str, str]]:
    shown = shown_environment(run)
    return [(key.replace("_", " "), _text(value)) for key, value in _flatten(shown) if key and value is not None]


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of every leaf; two folders with the same last part give the same key twice."""
    if isinstance(value, dict) and value:
        return [pair for name, child in value.items() for pair in _flatten(child, f"{prefix}{_name(name)}.")]
    return [(prefix[:-1], value)]


def _text(value: Any) -> str:
    """A value as it is typed, with the last part of each path."""
    return typed(_short(value))


def _short(value: Any) -> Any:
    match value:
        case list():
            return [_short(each) for each in value]
        case dict():
            return {_name(str(key)): _short(each) for key, each in value.items()}
        case float():
            return f"{value:g}"
    return _name(value) if isinstance(value, str) else value


def _name(path: str) -> str:
    """The last part of a path; any other text unchanged."""
    return path.rstrip("/").rpartition("/")[2]
