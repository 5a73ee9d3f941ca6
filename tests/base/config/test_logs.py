"""One way to speak: who is heard, in which words, beside a bar and in a run's log."""

import logging
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from dira_scale.base.config import logs
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.lease import Lease

logger = logging.getLogger("dira_scale.somewhere")


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RANK", raising=False)
    package = logging.getLogger(logs.PACKAGE)
    before, level = list(package.handlers), package.level
    logs.start("export")
    logs.start("pretrain")  # a second command of one process speaks once, by its own name
    yield
    package.handlers[:] = before
    package.setLevel(level)


def test_a_message_is_one_printable_line_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    logger.info("%s is read", "a\x1b[2Jb")
    logger.warning("two\nlines")
    logger.error("no more room")
    logger.debug("never shown")
    lines = ["pretrain: a\\x1b[2Jb is read", "pretrain: warning: two\\nlines", "pretrain: no more room"]
    captured = capsys.readouterr()
    assert captured.err.splitlines() == lines and captured.out == ""


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("strange\x07name")
    except ValueError:
        logger.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pretrain: it failed" and lines[1].startswith("Traceback")
    assert lines[-1] == "ValueError: strange\\x07name"


def test_of_several_ranks_the_first_speaks_unless_all_are_asked_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    logger.warning("known to all")
    logger.error("on this machine alone", extra={"every_rank": True})
    assert capsys.readouterr().err == "pretrain: on this machine alone\n"


def test_lines_appear_above_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    screen = StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=200)) as bar:
        bar.add_task("training")
        logger.warning("meanwhile")
    assert "pretrain: warning: meanwhile\n" in screen.getvalue() and capsys.readouterr().err == ""


def test_a_run_keeps_what_is_logged_while_it_lasts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, {})
    logger.warning("a step was skipped")
    run.release()
    logger.warning("of the next run")
    assert (tmp_path / "log.txt").read_text() == "warning: a step was skipped\n"


def test_a_disk_that_is_full_is_reported_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where it is the log that cannot be written; lines of all threads come when there is room."""
    run = RunFolder(tmp_path, {})
    (tmp_path / "log.txt").mkdir()
    (tmp_path / "metrics.jsonl").mkdir()
    threads = [threading.Thread(target=logger.warning, args=("from beside %d", i)) for i in range(8)]
    for thread in threads:
        thread.start()
        run.metrics({"step": 1})
    for thread in threads:
        thread.join(60)
    lines = capsys.readouterr().err.splitlines()
    assert sum("log.txt cannot be written" in line for line in lines) == 1
    assert sum("metrics.jsonl cannot be written" in line for line in lines) == 1
    (tmp_path / "log.txt").rmdir()
    (tmp_path / "metrics.jsonl").rmdir()
    run.metrics({"step": 2})
    run.release()
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(line for line in log if "beside" in line) == [f"warning: from beside {i}" for i in range(8)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9 and len(log) == 10


def test_a_run_that_was_taken_over_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path, {})
    monkeypatch.setattr("dira_scale.train.runs.lease._dead", lambda held: True)
    heir = Lease(tmp_path)
    logger.warning("a ghost speaks")
    assert not (tmp_path / "log.txt").exists()
    run.release()
    heir.release()
