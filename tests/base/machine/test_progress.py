"""Progress where there is no terminal."""

import logging

import pytest

from dira_scale.base.machine import progress


def lines(caplog: pytest.LogCaptureFixture, done: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO), progress.bar("predicting", "images") as shown:
        task = shown.add_task("", total=200, completed=done)
        for _ in range(done, 200):
            shown.advance(task)
    return [record.message for record in caplog.records]


def test_a_log_file_gets_a_line_for_each_tenth(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lines(caplog, 0) == []  # it is over in no time
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    printed = lines(caplog, 0)
    assert [line.partition(",")[0] for line in printed] == [f"predicting: {20 * n} of 200" for n in range(1, 10)]
    assert printed[0].endswith("min to go")
    assert len(lines(caplog, 110)) == 4  # a call that goes on: 120, 140, 160, 180
