"""SLURM's commands, as a test wants them."""

from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Commands that say nothing until they are told what."""
    return Slurm(tmp_path, monkeypatch)
