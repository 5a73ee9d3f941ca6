"""Sick nodes: those that fail what other nodes finish."""

from collections.abc import Mapping, Sequence

from dira_scale.cluster.records import Try
from dira_scale.runs.exit_codes import BAD_INPUT, DONE, INTERRUPTED

FAILURES = 2  # on one node since it last worked: one failure may be chance


def failed(one: Try, last: bool) -> bool:
    """Whether a try came to nothing by no fault of its input: it failed, or something followed that it did not end.

    ``last``: no try has followed it, so without an end it may still be running.
    """
    if one.exit_code is None:
        return one.ended is None and not last
    return one.exit_code not in (DONE, BAD_INPUT, INTERRUPTED)


def went_on(one: Try) -> bool:
    """Whether a try finished, was interrupted after a checkpoint, or made a step."""
    return one.exit_code in (DONE, INTERRUPTED) or (one.step or 0) > (one.step_before or 0)


def sick_nodes(tries: Mapping[str, Sequence[Try]]) -> dict[str, str]:
    """Nodes that the next try should avoid, with the reason, for a person to read.

    A node is sick if it has failed twice since it last finished anything, each time a run that is not itself to blame:
    another node went on with it, or it has been nowhere else and another node went on with a run of its phase. With no
    healthy node left nothing is excluded, or jobs would wait for ever.

    Args:
        tries: by the runs' ids, oldest first.
    """
    everything = [(run, one, one is of[-1]) for run, of in tries.items() for one in of]
    nodes = sorted({node for _, one, _ in everything for node in one.nodes})
    found = {}
    for node in nodes:
        worked = [one.ended or one.began for _, one, _ in everything if node in one.nodes and _finished(one)]
        since = max(worked, default=float("-inf"))
        failures = [
            (run, one)
            for run, one, last in everything
            if node in one.nodes and one.began >= since and failed(one, last)
        ]
        blamed = [(run, one) for run, one in failures if _others_went_on(node, run, tries)]
        if len(blamed) >= FAILURES:
            runs = sorted({run for run, _ in blamed})
            found[node] = f"failed {len(blamed)} tries of {', '.join(runs)}, which other nodes went on with"
    healthy = {node for _, one, _ in everything if went_on(one) for node in one.nodes} - found.keys()
    return found if healthy else {}


def _finished(one: Try) -> bool:
    return one.exit_code in (DONE, INTERRUPTED)


def _others_went_on(node: str, run: str, tries: Mapping[str, Sequence[Try]]) -> bool:
    """Whether the fault is the node's rather than the run's."""
    elsewhere = [one for one in tries[run] if node not in one.nodes]
    if elsewhere:
        return any(map(went_on, elsewhere))
    phase = run.partition("/")[0]
    siblings = [one for other, of in tries.items() if other.partition("/")[0] == phase for one in of]
    return any(went_on(one) for one in siblings if node not in one.nodes)
