"""Reads the leases of a run folder (:mod:`dira_scale.train.runs.lease`): who holds it, and when it last showed life.

Imports no torch: what looks at many runs is quick.
"""

import json
import time
from pathlib import Path
from typing import Any

from dira_scale.train.distributed.timings import TIMINGS

# What is known about a holder whose file is empty yet: on file systems without links it is filled after it is made.
JUST_TAKEN: dict[str, Any] = {
    "host": "unknown host", "numbering": None, "pid": 0, "beat": -1, "released": False, "slurm_job": None,
}  # fmt: skip


def newest(folder: Path) -> dict[str, Any] | None:
    """The run's lease with the highest number, or None."""
    if not (taken := numbers(folder)):
        return None
    text = _file(folder, max(taken)).read_text()
    return json.loads(text) if text else JUST_TAKEN | {"number": max(taken)}


def seconds_without_beat(folder: Path) -> float | None:
    """Seconds since the run's newest lease was written, by the file system's clock; None without a lease.

    Good enough for a report; taking over a run uses a stricter check.
    """
    taken = numbers(folder)
    return time.time() - _file(folder, max(taken)).stat().st_mtime if taken else None


def has_stopped(seconds: float) -> bool:
    """Return whether ``seconds`` without a beat mean that the holder is dead."""
    return seconds > TIMINGS.dead_after


def numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in (folder / "leases").glob("[0-9]*.json")]


def _file(folder: Path, number: int) -> Path:
    return folder / "leases" / f"{number:06d}.json"
