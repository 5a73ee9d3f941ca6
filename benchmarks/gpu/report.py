"""The results: ``gpu.json``, which is updated with every figure, and ``gpu.txt``, all of them in one table."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.storage.atomic import write_json

SURPRISE = 2.0  # times as much as was expected, or as little
HEAD = f"{'':<58}{'measured':>12}{'expected':>11}{'ratio':>9}"
EXPECTED = "expected.json"  # what another process expects, meanwhile


class Report:
    """The file in ``folder``, written anew by each :meth:`add`: whatever ends the process leaves all before it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gpu.json"

    def read(self) -> dict[str, Any]:
        """All so far."""
        result: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return result

    def add(self, **figures: Any) -> None:
        """Put these beside what is there, or in its place."""
        write_json(self.file, self.read() | figures)


@dataclass(frozen=True)
class Job:
    """What a part is given.

    Attributes:
        report: where its figures go.
        seconds: that it may take.
        rehearse: whether at tiny sizes, on a CPU too.
        logs: a folder for more than it prints.
        part: its name.
    """

    report: Report
    seconds: float
    rehearse: bool
    logs: Path
    part: str


def figure(
    value: float, unit: str, expected: float | tuple[str, str] | None = None, note: str = "", fine: bool = True
) -> dict[str, Any]:
    """A figure for the table. ``expected``: how much, or where it stands in ``expected.json``; ``fine``: whether it is
    as it must be, whatever was expected."""
    return {"value": value, "unit": unit, "expected": expected, "note": note, "fine": fine}


def text(content: dict[str, Any]) -> str:
    """All so far: the machine; then part by part how it ended, its figures, and what was left out."""
    from benchmarks.gpu import steps

    lines = ["a rehearsal: its figures say nothing"] * bool(content.get("rehearsal"))
    lines += [f"{key}: {value}" for key, value in content.get("environment", {}).items()]
    lines += [f"expected: {content['expectation']}"] if "expectation" in content else []
    lines += ["", HEAD]
    for part, ended in content.get("parts", {}).items():
        state = content.get(part, {})
        lines.append(f"{part}: {ended['why']}, {ended['seconds']:.0f} s")
        items = state.get("items", {})
        for name, item in steps.finished(items, content).items():
            lines += rows(name, item, content)
        lines += [f"  {name}: not run, the time was up" for name in state.get("not_run", [])]
    return "\n".join(lines) + "\n"


def rows(name: str, item: dict[str, Any], content: dict[str, Any]) -> Iterator[str]:
    """The lines of an item, or why it has none."""
    if why := item.get("failed") or item.get("left_out"):
        yield f"  {name}: {'FAILED, ' if 'failed' in item else 'left out, '}{why}"
    for what, row in item.get("figures", {}).items():
        yield f"  {name + ': ' + what + ', ' + row['unit']:<56}{cells(row, content)}".rstrip()
    for where in item.get("places", []):
        yield f"    {where['times']} x {where['message']}"
        yield from (f"        {frame}" for frame in where["stack"])


def cells(row: dict[str, Any], content: dict[str, Any]) -> str:
    """What was measured beside what was expected; one or the other may be far off."""
    expected, value = row["expected"], row["value"]
    if isinstance(expected, list | tuple):
        expected = content.get("expected", {}).get(expected[0], {}).get(expected[1])
    ratio = value / expected if expected else None
    odd = ratio is not None and not 1 / SURPRISE <= ratio <= SURPRISE and not content.get("rehearsal")
    marks = "  SURPRISE" * odd + "  NOT FINE" * (not row["fine"])
    shown = f"{number(value):>12}{number(expected):>11}{number(ratio):>9}{marks}"
    return f"{shown}  {row['note']}" if row["note"] else shown


def number(value: float | None) -> str:
    """Three digits at least, or nothing."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"
