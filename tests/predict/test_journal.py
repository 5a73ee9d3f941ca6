"""What is done survives a kill, also one in the middle of a line; and belongs to one prediction and one process."""

from pathlib import Path

import pytest

from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.journal import FILE, journal


def test_rows_that_were_written_whole_are_done(tmp_path: Path) -> None:
    about = {"network": "a", "data": {"split": "test"}}
    with journal(tmp_path, about) as rows:
        rows.add("one", {"values": [0.1]})
        rows.add("zwö", {"values": [1 / 3]})
        with pytest.raises(UserError, match="another process is writing to"), journal(tmp_path, about):
            pass
    with (tmp_path / FILE).open("a") as file:
        file.write('{"key": "three", "val')  # killed
    with journal(tmp_path, about) as rows:
        assert rows.done == {"one": {"values": [0.1]}, "zwö": {"values": [1 / 3]}}
        rows.add("three", {"values": [0.5]})
    with journal(tmp_path, about) as rows:
        assert rows.done["three"] == {"values": [0.5]} and len(rows.done) == 3
    other, printed = about | {"data": {"split": "val"}}, "has results of another data: use another out"
    with pytest.raises(UserError, match=printed), journal(tmp_path, other):
        pass
