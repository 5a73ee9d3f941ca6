"""SLURM's commands, as a test wants them."""

from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Commands that print nothing until a test says what."""
    return Slurm(tmp_path, monkeypatch)
