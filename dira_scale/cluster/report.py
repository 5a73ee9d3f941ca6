"""The status of a sweep for programs: one JSON object."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from dira_scale.cluster.health import sick_nodes
from dira_scale.cluster.records import SweepFolder
from dira_scale.cluster.state import STATES
from dira_scale.cluster.status import Standing, present, progress, standings
from dira_scale.cluster.usage import usage


def report(folder: SweepFolder) -> tuple[dict[str, Standing], dict[str, Any]]:
    """The runs that the sweep has now, by id, and what is known of them, ready for JSON.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, problem = standings(folder)
    found = present(folder, everything)
    counts, used = Counter(one.state for one in found.values()), usage(folder, found)
    return found, {
        "folder": str(folder.path),
        "problem": problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": [_run(folder, one) for one in found.values()],
        "sick_nodes": sick_nodes({run_id: one.tries for run_id, one in found.items()}),
        "usage": asdict(used) if used else None,
    }


def _run(folder: SweepFolder, one: Standing) -> dict[str, Any]:
    far = progress(folder, one)
    return {
        "phase": one.run.phase,
        "name": one.run.name,
        "state": one.state,
        "reason": one.reason,
        "job": one.job or None,
        "try": len(one.tries) or None,
        "node": one.nodes or None,
        "step": far.step,
        "steps": far.steps,
        "loss": far.loss,
        "images_per_second": far.images_per_second,
        "seconds_to_go": far.to_go,
        "folder": str(folder.path / one.run.id),
    }
