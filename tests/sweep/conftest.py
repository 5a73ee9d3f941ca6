"""SLURM's commands, as a test wants them."""

import os
from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm, Tools

SBATCH = """#!/bin/sh
count=$(ls {log} | wc -l); cp "$1" {log}/$count
{refusal}
echo "Submitted batch job $((100 + count))"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Commands that print nothing until a test says what."""
    return Slurm(tmp_path, monkeypatch)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Puts stand-ins of SLURM's commands on the path; returns the folder where sbatch's scripts are kept."""

    def make(refusal: str = "") -> Path:
        (folder := tmp_path / "tools").mkdir()
        (log := tmp_path / "scripts").mkdir()
        for name, text in (("sbatch", SBATCH.format(log=log, refusal=refusal)), ("srun", "#!/bin/sh\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return log

    return make
