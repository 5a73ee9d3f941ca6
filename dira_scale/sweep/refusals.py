"""What SLURM refuses, asked beforehand or answered by sbatch, in the words of the profile."""

import re
import subprocess
from collections.abc import Sequence

from dira_scale.errors import UserError
from dira_scale.sweep import queue
from dira_scale.sweep.config import Cluster, SweepConfig
from dira_scale.sweep.queue import run_slurm

# What sbatch says, the profile's key that it is about, and what to do; the first that fits.
SAID = (
    ("invalid partition", "partition", "sinfo lists the partitions"),
    ("invalid account", "account", "`sacctmgr show associations user=$USER` lists your accounts and partitions"),
    ("invalid qos", "qos", "`sacctmgr show associations user=$USER format=account,qos` lists yours"),
    ("policy", "partition, qos, hours, parallel", "a limit of the cluster; jobs in the queue count"),
    ("time limit", "hours", "sinfo lists the partitions' limits"),
    ("invalid feature", "constraint", "`sinfo -o '%N %f'` lists the nodes' features"),
    ("invalid generic resource", "gpus_per_node", "`sinfo -o '%N %G'` lists the nodes' GPUs"),
    ("memory specification", "memory", "`sinfo -o '%N %m'` lists the nodes' memory"),
    (
        "node configuration is not available",
        "constraint, gpus_per_node, cpus_per_task, memory",
        "no node has all of it",
    ),
    ("unrecognized option", "sbatch", "`sbatch --help` lists its options"),
)


def explain(error: Exception, phase: str, profile: Cluster) -> str:
    """sbatch's refusal of jobs of ``phase``, in the profile's words."""
    told = " ".join(
        re.sub(r"^sbatch: (error: )?(Batch job submission failed: )?", "", line) for line in str(error).splitlines()
    )
    cause = error.__cause__
    if isinstance(cause, subprocess.CalledProcessError) and cause.returncode == 124:
        return f"phase {phase}: sbatch has not answered within {queue.SECONDS} s; is SLURM's controller up (`sinfo`)?"
    for text, keys, hint in SAID:
        if text in told.lower():
            given = ", ".join(f"cluster.{key}={getattr(profile, key)}" for key in keys.split(", "))
            return f"phase {phase}: {given}: SLURM refuses it ({told}); {hint}"
    return f"phase {phase}: sbatch failed: {told or cause}"


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
