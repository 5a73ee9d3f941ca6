"""The process of the other environment is asked, and its failure is said."""

from pathlib import Path

import pytest

from benchmarks.peers import VARIABLE, Peers
from benchmarks.turns import Pace
from dira_scale.base.errors import UserError


def environment(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "python").chmod(0o755)
    return folder


def test_the_other_environment_is_asked_and_its_failure_said(tmp_path: Path) -> None:
    answers = """echo '{"sizes": {"x": 5}, "packages": {}}'; read line; echo '[2.0, 3.0]'; cat > /dev/null"""
    with Peers(environment(tmp_path / "good", answers), "loader", tmp_path) as peers:
        assert peers.sizes == {"x": 5} and peers.turns["x"](1.0) == Pace(2.0, 3.0)
    with pytest.raises(UserError, match="ended: no module"):
        Peers(environment(tmp_path / "bad", "echo no module >&2"), "loader", tmp_path)
    for absent in (None, tmp_path):
        with pytest.raises(UserError, match=rf"benchmarks\.peers FOLDER makes .* {VARIABLE} names it"):
            Peers(absent, "loader", tmp_path)
