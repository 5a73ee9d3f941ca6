"""A part's job, and ``gpu.json``, which is updated with every figure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dira_scale.base.storage.atomic import write_json

EXPECTED = "expected.json"  # what another process expects, meanwhile


class Report:
    """The file in ``folder``, written anew by each :meth:`add`: whatever ends the process leaves all before it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gpu.json"

    def read(self) -> dict[str, Any]:
        """All so far."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

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
        tests: of the part of that name: files or folders, if not all.
        parts: of this call.
    """

    report: Report
    seconds: float
    rehearse: bool
    logs: Path
    part: str
    tests: tuple[Path, ...] = ()
    parts: tuple[str, ...] = ()


def figure(
    value: float, unit: str, expected: float | tuple[str, str] | None = None, note: str = "", fine: bool = True
) -> dict[str, Any]:
    """A figure for the table. ``expected``: how much, or where it stands in ``expected.json``; ``fine``: whether it is
    as it must be, whatever was expected."""
    return {"value": value, "unit": unit, "expected": expected, "note": note, "fine": fine}
