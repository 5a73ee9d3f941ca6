"""The status of a sweep for programs: one JSON object."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from dira_scale.cluster.health import sick_nodes
from dira_scale.cluster.records import SweepFolder
from dira_scale.cluster.state import STATES
from dira_scale.cluster.status import RunStatus, present, progress, read_statuses
from dira_scale.cluster.usage import usage


def report(folder: SweepFolder) -> tuple[dict[str, RunStatus], dict[str, Any]]:
    """The runs that the sweep has now, by id, and what is known of them, ready for JSON.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, problem = read_statuses(folder)
    statuses = present(folder, everything)
    counts, used = Counter(status.state for status in statuses.values()), usage(folder, statuses)
    return statuses, {
        "folder": str(folder.path),
        "problem": problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": [_run(folder, status) for status in statuses.values()],
        "sick_nodes": sick_nodes({run_id: status.tries for run_id, status in statuses.items()}),
        "usage": asdict(used) if used else None,
    }


def _run(folder: SweepFolder, status: RunStatus) -> dict[str, Any]:
    far = progress(folder, status)
    return {
        "phase": status.run.phase,
        "name": status.run.name,
        "state": status.state,
        "reason": status.reason,
        "job": status.job or None,
        "try": len(status.tries) or None,
        "node": status.nodes or None,
        "step": far.step,
        "steps": far.steps,
        "loss": far.loss,
        "images_per_second": far.images_per_second,
        "seconds_to_go": far.to_go,
        "folder": str(folder.path / status.run.id),
    }
