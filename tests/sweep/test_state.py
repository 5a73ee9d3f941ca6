"""A run's state follows from its records, SLURM's answer and its lease alone: every case, and what holds for all."""

import itertools
from dataclasses import replace

import pytest

from dira_scale.sweep.queue import BROKEN, PENDING, RUNNING, STOPPED, JobState
from dira_scale.sweep.records import Try
from dira_scale.sweep.state import STATES, RunFacts, state

OPEN = Try(0, "slurm", "6_0", 0, ["n1"], 100.0)
DONE = replace(OPEN, ended=200.0, exit_code=0)
STOP = replace(OPEN, ended=200.0, exit_code=75, reason="SIGUSR2: checkpoint written")
FAIL = replace(OPEN, ended=200.0, exit_code=1, reason="NaN at step 12")
BAD = replace(OPEN, ended=200.0, exit_code=2, reason="no such shards")
BLOCKED = replace(OPEN, ended=200.0, reason="blocked: shards/tiny not done")
OTHER = replace(FAIL, job="3_0")  # of an earlier job


def job(state: str, reason: str = "") -> JobState:
    return JobState(state, reason)


@pytest.mark.parametrize(
    ("known", "expected", "why"),
    [
        # before the first try
        (RunFacts(), "missing", ""),
        (RunFacts(needs={"a/b": "running"}), "missing", ""),
        (RunFacts(needs={"a/b": "failed"}), "blocked", "by a/b"),
        (RunFacts(job=job("PENDING", "Resources")), "queued", "Resources"),
        (RunFacts(job=job("PENDING", "Dependency"), needs={"a/b": "running"}), "waiting", "for a/b"),
        (RunFacts(job=job("PENDING", "DependencyNeverSatisfied"), needs={"a/b": "failed"}), "waiting", "for a/b"),
        (RunFacts(job=job("CANCELLED"), id="6_0", needs={"a/b": "failed"}), "blocked", "by a/b"),
        (RunFacts(job=job("CANCELLED"), id="6_0", needs={"a/b": "interrupted"}), "blocked", "by a/b"),
        (RunFacts(job=job("GONE"), id="6_0", needs={"a/b": "failed"}), "blocked", "by a/b"),
        (RunFacts(job=job("CONFIGURING")), "running", "starting"),
        (RunFacts(job=job("CANCELLED")), "missing", "CANCELLED"),
        (RunFacts(job=job("FAILED"), id="6_0"), "failed", "job 6_0 is FAILED before the run began; see its logs"),
        (RunFacts(job=job("GONE"), id="6_0"), "lost", "job 6_0 is GONE before the run began"),
        (RunFacts(job=job("UNKNOWN", "squeue has not answered")), "queued", "squeue has not answered"),
        (RunFacts(cancelled=True), "cancelled", ""),
        # a try that has not recorded its end
        (RunFacts([OPEN], job=job("RUNNING"), id="6_0", beats=True), "running", ""),
        (RunFacts([OPEN], job=job("RUNNING"), id="6_0", beats=False), "running", "no sign of life"),
        (RunFacts([OPEN], job=job("PENDING", "BeginTime")), "queued", "BeginTime; after try 0: no end"),
        (RunFacts([OPEN], job=job("NODE_FAIL")), "interrupted", "its job ended as NODE_FAIL"),
        (RunFacts([OPEN], job=job("OUT_OF_MEMORY", "0:9")), "failed", "its job ended as OUT_OF_MEMORY (0:9)"),
        (RunFacts([OPEN], job=job("GONE"), beats=True), "running", "its lease is alive"),
        (RunFacts([OPEN], job=job("GONE"), beats=False), "lost", "its lease has expired"),
        (RunFacts([OPEN], job=job("GONE")), "lost", "its lease has expired"),
        (RunFacts([OPEN], job=job("COMPLETED")), "lost", "its job is COMPLETED"),
        (RunFacts([OPEN], job=job("UNKNOWN", "no squeue here"), beats=True), "running", "no squeue here"),
        (RunFacts([OPEN], job=job("UNKNOWN", "no squeue here")), "running", "when last recorded; no squeue here"),
        (RunFacts([OPEN], job=job("UNKNOWN", "no squeue here"), beats=False), "lost", "no squeue here"),
        (RunFacts([OPEN], job=job("RUNNING"), cancelled=True), "cancelled", "still ending"),
        # one that has
        (RunFacts([DONE], job=job("RUNNING")), "done", ""),
        (RunFacts([DONE], cancelled=True), "done", ""),
        (RunFacts([FAIL, DONE], job=job("COMPLETED")), "done", ""),
        (RunFacts([STOP], job=job("PENDING", "Priority")), "queued", "after try 0: SIGUSR2"),
        (RunFacts([STOP], job=job("TIMEOUT")), "interrupted", "SIGUSR2: checkpoint written"),
        (RunFacts([STOP], job=job("GONE")), "interrupted", "SIGUSR2: checkpoint written"),
        (RunFacts([FAIL], job=job("FAILED")), "failed", "NaN at step 12"),
        (RunFacts([FAIL], job=job("RUNNING"), id="6_0"), "running", ""),
        (RunFacts([FAIL], job=job("FAILED", "exit 9:0")), "failed", "step 12; its job ended as FAILED (exit 9:0)"),
        (RunFacts([FAIL], job=job("UNKNOWN", "no squeue here")), "failed", "NaN at step 12; no squeue here"),
        (RunFacts([STOP], job=job("UNKNOWN", "no squeue here")), "interrupted", "written; no squeue here"),
        (RunFacts([BAD], job=job("FAILED")), "failed", "no such shards"),
        (RunFacts([replace(FAIL, reason="")], job=job("FAILED")), "failed", "exit code 1"),
        (RunFacts([BLOCKED], job=job("COMPLETED"), needs={"shards/tiny": "failed"}), "blocked", "by shards/tiny"),
        (RunFacts([BLOCKED], job=job("COMPLETED"), needs={}), "missing", "done now"),
        # submitted again after an earlier job
        (RunFacts([OTHER], job=job("PENDING", "Resources"), id="6_0"), "queued", "NaN at step 12"),
        (RunFacts([OTHER], job=job("RUNNING"), id="6_0"), "running", "starting"),
        (RunFacts([OTHER], job=job("CANCELLED"), id="6_0"), "failed", "NaN at step 12"),
        (RunFacts([OTHER], job=job("GONE"), id="6_0"), "lost", "before the run began"),
    ],
)
def test_each_case(known: RunFacts, expected: str, why: str) -> None:
    actual, reason = state(known)
    assert (actual, why in reason) == (expected, True), (actual, reason)
    assert why or not reason


def test_every_combination_has_a_state_and_never_one_that_its_records_contradict() -> None:
    tries = [[], [OPEN], [DONE], [STOP], [FAIL], [BAD], [BLOCKED], [OTHER], [FAIL, OPEN], [OPEN, STOP]]
    jobs = [None, *map(job, (*PENDING, *RUNNING, *BROKEN, *STOPPED, "COMPLETED", "GONE", "UNKNOWN", "NEW_WORD"))]
    needs: list[dict[str, str]] = [{}, {"a/b": "running"}, {"a/b": "failed"}]
    for of, item, cancelled, need, beats in itertools.product(tries, jobs, (False, True), needs, (None, False, True)):
        what, why = state(RunFacts(of, cancelled, need, "6_0" if item else "", item, beats))
        assert what in STATES and "\n" not in why
        assert (what == "done") == (DONE in of)
        if what not in ("done", "cancelled") and item and item.state in RUNNING:
            assert what == "running"
        if cancelled:
            assert what in ("done", "cancelled")
        if what == "failed":
            assert why
