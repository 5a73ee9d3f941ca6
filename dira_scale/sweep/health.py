"""Sick nodes: those that fail what other nodes finish."""

from collections.abc import Mapping, Sequence

from dira_scale.runs.exit_codes import BAD_INPUT, DONE, INTERRUPTED
from dira_scale.sweep.records import Try

FAILURES = 2  # on one node since it last worked: one failure may be chance


def failed(attempt: Try, last: bool) -> bool:
    """Whether a try came to nothing by no fault of its input: it failed, or something followed that it did not end.

    ``last``: no try has followed it, so without an end it may still be running.
    """
    if attempt.exit_code is None:
        return attempt.ended is None and not last
    return attempt.exit_code not in (DONE, BAD_INPUT, INTERRUPTED)


def went_on(attempt: Try) -> bool:
    """Whether a try finished, was interrupted after a checkpoint, or made a step."""
    return attempt.exit_code in (DONE, INTERRUPTED) or (attempt.step or 0) > (attempt.step_before or 0)


def sick_nodes(tries: Mapping[str, Sequence[Try]]) -> dict[str, str]:
    """Nodes that the next try should avoid, with the reason, for a person to read.

    A node is sick if it has failed twice since it last finished anything, each time a run that is not itself to blame:
    another node went on with it, or it has been nowhere else and another node went on with a run of its phase. With no
    healthy node left nothing is excluded, or jobs would wait for ever.

    Args:
        tries: by the runs' ids, oldest first.
    """
    everything = [(run, attempt, attempt is of[-1]) for run, of in tries.items() for attempt in of]
    nodes = sorted({node for _, attempt, _ in everything for node in attempt.nodes})
    sick = {}
    for node in nodes:
        there = [(run, attempt, last) for run, attempt, last in everything if node in attempt.nodes]
        worked = [attempt.ended or attempt.began for _, attempt, _ in there if _finished(attempt)]
        since = max(worked, default=float("-inf"))
        failures = [(run, attempt) for run, attempt, last in there if attempt.began >= since and failed(attempt, last)]
        blamed = [(run, attempt) for run, attempt in failures if _others_went_on(node, run, tries)]
        if len(blamed) >= FAILURES:
            runs = sorted({run for run, _ in blamed})
            sick[node] = f"failed {len(blamed)} tries of {', '.join(runs)}, which succeeded on other nodes"
    healthy = {node for _, attempt, _ in everything if went_on(attempt) for node in attempt.nodes} - sick.keys()
    return sick if healthy else {}


def _finished(attempt: Try) -> bool:
    return attempt.exit_code in (DONE, INTERRUPTED)


def _others_went_on(node: str, run: str, tries: Mapping[str, Sequence[Try]]) -> bool:
    """Whether the fault is the node's rather than the run's."""
    elsewhere = [attempt for attempt in tries[run] if node not in attempt.nodes]
    if elsewhere:
        return any(map(went_on, elsewhere))
    phase = run.partition("/")[0]
    siblings = [attempt for other, of in tries.items() if other.partition("/")[0] == phase for attempt in of]
    return any(went_on(attempt) for attempt in siblings if node not in attempt.nodes)
