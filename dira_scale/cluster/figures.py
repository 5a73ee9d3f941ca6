"""What of a finished output folder is a result: the readers that the rows of `dira_scale.verbs` name.

Each returns pairs of name and figure, and the configuration that they came from.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# Of a row of metrics.jsonl: where it stands, and what says how it was computed.
NOT_A_RESULT = ("step", "epoch", "stage", "split", "lease", "lr", "warnings")
HOW = ("time/", "loader/")
Figures = Iterator[tuple[str, float]]


def training(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """The last row of each stage and split: ``STAGE/SPLIT/loss``."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    last = {(row["stage"], row["split"]): row for row in map(json.loads, lines)}
    figures = (
        (f"{stage}/{split}/{key}", value)
        for (stage, split), row in last.items()
        for key, value in row.items()
        if key not in NOT_A_RESULT and not key.startswith(HOW) and is_number(value)
    )
    # The C loader, where PyYAML has it: Python's own takes 30 ms a run.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return figures, yaml.load((output / "config.yaml").read_text(), loader)


def probing(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """``auc/KIND/LEVEL/PROBE/FRACTION/LABEL``; the encoder's name too where there are several of a kind."""
    content = json.loads((output / "probe.json").read_text())
    names: dict[str, set[str]] = {}
    for one in content["figures"]:
        names.setdefault(one["kind"], set()).add(one["encoder"])

    def metric(one: Mapping[str, Any]) -> str:
        kind = one["kind"] if len(names[one["kind"]]) == 1 else f"{one['kind']}:{one['encoder']}"
        return "/".join(["auc", kind, one["layer"], one["probe"], f"{one['fraction']:g}", one["label"]])

    figures = ((metric(one), one["auc"]) for one in content["figures"] if one["auc"] is not None)
    return figures, content["config"]


def from_json(output: Path) -> tuple[Figures, Mapping[str, Any]]:
    """Every number in the JSON files that another command has left: ``FILE/KEY/KEY``."""
    files = sorted(output.glob("*.json"))
    return (figure for file in files for figure in _numbers(json.loads(file.read_text()), file.stem)), {}


def _numbers(value: Any, name: str) -> Figures:
    if is_number(value):
        yield name, value
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    for key, one in enumerate(value) if isinstance(value, list) else inner:
        yield from _numbers(one, f"{name}/{key}")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
