"""What a person sees, and that nobody has to be there to see it."""

import sys

import pytest

from dira_scale.train import progress
from dira_scale.train.progress import Bar


class HungUp:
    """A terminal whose other end is gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    flush = write

    def isatty(self) -> bool:
        return False


def test_without_a_terminal_there_is_a_line_with_a_time_to_go(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Bar(total=100, done=40, enabled=True) as bar:
        bar.update(50, "dir")
        bar.shorten(20)
        bar.update(60, "dir")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dir step 50/100") and lines[0].endswith("min to go")
    assert lines[1].startswith("dir step 60/80")


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Bar(total=10, done=0, enabled=False) as bar:
        bar.update(5, "di")
        bar.say("done")
    assert capsys.readouterr().out == ""


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdout", HungUp())
    with Bar(total=10, done=0, enabled=True) as bar:
        bar.update(5, "di")
        bar.say("done")
