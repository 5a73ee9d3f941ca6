"""What a person sees, and that nobody has to be there to see it."""

import contextlib
import os
import pty
import re
import subprocess
import sys

import pytest

from dira_scale.train.engine import progress
from dira_scale.train.engine.progress import Bar


class HungUp:
    """A terminal whose other end is gone."""

    def write(self, text: str = "") -> int:
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
        bar.set_total(80)
        bar.note("loss 5.313  84 images/s")
        bar.update(60, "dir")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dir step 50/100") and lines[0].endswith("min to go")
    assert lines[1].startswith("dir step 60/80  loss 5.313  84 images/s  ") and lines[1].endswith("min to go")


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Bar(total=10, done=0, enabled=False) as bar:
        bar.update(5, "di")
        bar.print_line("done")
    assert capsys.readouterr().out == ""


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stdout", HungUp())
    with Bar(total=10, done=0, enabled=True) as bar:
        bar.update(5, "di")
        bar.print_line("done")


def test_on_a_terminal_there_is_a_bar() -> None:
    """A real one, in a process of its own with a bound on its time: nothing may go round in circles there."""
    code = (
        "import time\n"
        "from dira_scale.train.engine.progress import Bar\n"
        "with Bar(5, 0, True) as bar:\n"
        "    time.sleep(1.1)\n"
        "    bar.note('loss 1.0')\n"
        "    [bar.update(step, 'dir') for step in range(6)]\n"
        "    bar.print_line('a line above')\n"
        "    print('printed')\n"
    )
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    for text in (b"dir", b"5/5", b"loss 1.0", b"a line above", b"printed"):
        assert text in shown
    assert re.search(rb"to go.*0:00:00", shown.rpartition(b"5/5")[2])  # and not the time that it took
