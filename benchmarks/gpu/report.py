"""The results: ``gpu.json``, which is updated with every figure, and ``gpu.txt``, the same as text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.storage.atomic import write_json


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
    """

    report: Report
    seconds: float
    rehearse: bool
    logs: Path


def text(content: dict[str, Any]) -> str:
    """All figures so far, in the order in which they are measured."""
    from benchmarks import end_to_end
    from benchmarks.gpu import checks, recipes, table

    parts = ["a rehearsal: its figures say nothing"] * bool(content.get("rehearsal"))
    for name in ("environment", "basics"):
        parts += [f"{key}: {value}" for key, value in content.get(name, {}).items()]
    parts += [steady(name, result) for name, result in content.get("steady", {}).items()]
    if "recipes" in content:
        parts += ["", recipes.table(content["recipes"])]
    if "loaders" in content:
        found = content["loaders"]
        why = [
            f"loaders {state.replace('_', ' ')}: {found[state]}" for state in ("left_out", "failed") if state in found
        ]
        parts += ["", *(why or [end_to_end.text(found)])]
    if "ladder" in content:
        parts += ["", table.text(content["ladder"]).rstrip()]
    if "tests" in content:
        parts += ["", *map(checks.line, content["tests"])]
    ended = [f"{name}: {result['why']}, {result['seconds']:.0f} s" for name, result in content.get("parts", {}).items()]
    return "\n".join([*parts, "", *ended]) + "\n"


def steady(name: str, result: dict[str, Any]) -> str:
    """A check and its outcome; the places where the host waited, with the lines that led there."""
    rest = ", ".join(f"{key} {value}" for key, value in result.items() if key not in ("fine", "places"))
    lines = [f"{name}: {'fine' if result['fine'] else 'NOT FINE'}{f', {rest}' if rest else ''}"]
    for where in result.get("places", []):
        lines += [f"    {where['times']} x {where['message']}", *(f"        {frame}" for frame in where["stack"])]
    return "\n".join(lines)
