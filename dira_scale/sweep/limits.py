"""What SLURM's configuration allows: hours of a job, jobs of an array."""

import re
from collections.abc import Sequence

from dira_scale.errors import UserError
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.queue import run_slurm


def longest_array() -> int:
    """Jobs that an array may have on this cluster."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_slurm(["scontrol", "show", "config"]), re.MULTILINE)
    assert match, "scontrol show config names MaxArraySize"
    return int(match[1])


def check_hours(config: SweepConfig, phases: Sequence[str]) -> None:
    """SLURM takes a job that is longer than its partition allows, and never starts it."""
    answer = (line.split("|") for line in run_slurm(["sinfo", "--noheader", "--format=%P|%l"]).splitlines())
    limits = {name: _minutes(limit) for name, limit in answer}
    for phase in phases:
        profile = config.profile(phase)
        named = profile.partition.split(",") if profile.partition else [n for n in limits if n.endswith("*")]
        allowed = [limit for name, limit in limits.items() if name in named or name.rstrip("*") in named]
        assert profile.hours is not None
        if allowed and 60 * profile.hours > max(allowed):
            raise UserError(
                f"phase {phase}: cluster.hours={profile.hours:g}: partition {profile.partition or '(the default)'} "
                f"allows {max(allowed) / 60:g}; a run that needs longer is queued again after a checkpoint"
            )


def _minutes(limit: str) -> float:
    """Return the minutes of a time as SLURM writes it: ``infinite``, ``1-12:00:00``, ``30:00``, or minutes and seconds,
    ``1:00``."""
    if not limit[0].isdigit():
        return float("inf")
    days, _, clock = limit.rpartition("-")
    parts = [0, 0, 0, *map(int, clock.split(":"))][-3:]
    return 24 * 60 * int(days or 0) + 60 * parts[0] + parts[1] + parts[2] / 60
