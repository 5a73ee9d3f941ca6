"""The sweep that the benchmark makes up is one: all states are as it says."""

import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.sweep import make
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.status import read_statuses


def test_half_of_the_runs_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 8)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    result, problem = read_statuses(SweepFolder(tmp_path))
    assert not problem
    assert Counter(item.state for item in result.values()) == {"done": 4, "running": 2, "queued": 2}
