"""The records of a sweep after accidents: cut lines, missing files, several writers."""

import json
import multiprocessing
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from dira_scale.errors import UserError
from dira_scale.sweep.records import Run, Submission, SweepFolder, Try

WRITERS, ROWS = 4, 25


def row(job: str) -> Submission:
    return Submission("slurm", job, [f"a/{job}"] * 50, 1.0, "login")


def write(path: Path, writer: int) -> None:
    for n in range(ROWS):
        SweepFolder(path).submitted(row(f"{writer}-{n}"))


def test_a_cut_line_is_left_out_and_the_next_row_is_whole(tmp_path: Path) -> None:
    folder, file = SweepFolder(tmp_path), tmp_path / "submissions.jsonl"
    text = json.dumps(asdict(row("2")))
    for cut in (1, len(text) // 2, len(text) - 1):
        file.unlink(missing_ok=True)
        folder.submitted(row("1"))
        file.write_text(file.read_text() + text[:cut])
        assert folder.submissions == [row("1")]
        folder.submitted(row("3"))
        assert folder.submissions == [row("1"), row("3")]


def test_rows_of_several_writers_are_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write, args=(tmp_path, n)) for n in range(WRITERS)]
    for item in writers:
        item.start()
    for item in writers:
        item.join(60)
        assert item.exitcode == 0
    result = [item.job for item in SweepFolder(tmp_path).submissions]
    assert sorted(result) == sorted(f"{writer}-{n}" for writer in range(WRITERS) for n in range(ROWS))


def test_a_run_of_a_command_that_is_not_known_is_named(tmp_path: Path) -> None:
    """As of a sweep that a later version has started: by everything that reads its records."""
    folder = SweepFolder(tmp_path)
    folder.add(Run("a", "x", "pretrian", [], "a/x/output"))
    message = re.escape(
        f"{tmp_path}/a/x/run.json: there is no command pretrian; did you mean 'pretrain'?; use the version of "
        "dira_scale that started the sweep"
    )
    for read in (lambda: folder.run("a/x"), lambda: folder.runs):
        with pytest.raises(UserError, match=message):
            read()


def test_a_try_is_numbered_after_the_highest(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.add(Run("a", "x", "shard", [], "a/x/output"))
    for _ in range(3):
        folder.begin("a/x", Try(0, "local", "1", 0, ["n"], 1.0))
    (tmp_path / "a" / "x" / "tries" / "001.json").unlink()
    assert folder.begin("a/x", Try(0, "local", "1", 0, ["n"], 1.0)).number == 3
    assert [item.number for item in folder.tries("a/x")] == [0, 2, 3]
