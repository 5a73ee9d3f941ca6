"""Launchers of one machine: what is wrong is said once, however many processes they start."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness import SECONDS, pretrain

pytestmark = pytest.mark.system

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: {kind}
mixed_precision: '{precision}'
num_machines: 1
num_processes: {processes}
machine_rank: 0
"""


def said(command: list[str]) -> list[str]:
    """The lines that a run which is refused ends with."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if line.startswith("pretrain: ") and "warning: " not in line]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.bach=8"], "unknown key data.bach; did you mean 'data.batch'?"),
        (["data.batch=9"], "data.batch=9 is not divisible by 2 ranks x parallel.accumulate=1"),
        (["data.split=trian"], "did you mean 'train'?"),
        (["model.encoder=resnet81"], "resnet81"),
    ],
)
def test_two_processes_say_it_once(shards: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    (line,) = said(pretrain(tmp_path / "run", shards, *overrides, ranks=2))
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "precision", "processes", "message"),
    [
        ("NO", "fp16", 1, "accelerate's own configuration has mixed_precision=fp16, ours has precision=fp32"),
        ("FSDP", "no", 2, "accelerate's own configuration has use_fsdp=true, ours has parallel.strategy=ddp"),
        ("MULTI_CPU", "no", 2, "accelerate launch was asked for 2 processes and started one"),
    ],
)
def test_accelerates_file_and_our_configuration(
    shards: Path, tmp_path: Path, kind: str, precision: str, processes: int, message: str
) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(CONFIG.format(kind=kind, precision=precision, processes=processes))
    (line,) = said([*ACCELERATE, "--config_file", str(file), *pretrain(tmp_path / "run", shards)[1:]])
    assert message in line
