"""The records of a sweep after accidents: cut lines, missing files."""

import json
from pathlib import Path

from dira_scale.sweep.records import Run, SweepFolder, Try


def row(job: str) -> dict[str, str]:
    return {f"a/{job}-{n}": job for n in range(50)}


def test_a_cut_line_is_left_out_and_the_next_row_is_whole(tmp_path: Path) -> None:
    folder, file = SweepFolder(tmp_path), tmp_path / "jobs.jsonl"
    text, known = json.dumps(row("2")), {run_id: ["1"] for run_id in row("1")}
    for cut in (1, len(text) // 2, len(text) - 1):
        file.unlink(missing_ok=True)
        folder.submitted(row("1"))
        file.write_text(file.read_text() + text[:cut])
        assert folder.jobs == known
        folder.submitted(row("3"))
        assert folder.jobs == known | {run_id: ["3"] for run_id in row("3")}


def test_a_try_is_numbered_after_the_highest(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.add(Run("a", "x", "shard", [], "a/x/output"))
    for _ in range(3):
        folder.begin("a/x", Try(0, "local", "1", 0, ["n"], 1.0))
    (tmp_path / "a" / "x" / "tries" / "001.json").unlink()
    assert folder.begin("a/x", Try(0, "local", "1", 0, ["n"], 1.0)).number == 3
    assert [item.number for item in folder.tries("a/x")] == [0, 2, 3]
