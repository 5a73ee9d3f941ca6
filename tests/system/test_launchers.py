"""Launchers of one machine: what is wrong is said once, however many processes they start."""

import sys
from pathlib import Path

import pytest
from harness import EACH, error_lines, finish, pretrain

pytestmark = pytest.mark.system

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
machine_rank: 0
"""


@pytest.mark.parametrize(
    ("key", "message", "fresh"),
    [
        ("data.bach=8", "unknown key data.bach; did you mean 'data.batch'?", True),
        ("data.batch=9", "data.batch=9 is not divisible by 2 ranks x parallel.accumulate=1", False),
    ],
)
def test_two_processes_say_it_once(shards: Path, tmp_path: Path, key: str, message: str, fresh: bool) -> None:
    """torchrun ends processes that have not yet spoken. What all agree on is said once without it, too."""
    printed = finish(pretrain(tmp_path / "run", shards, key, ranks=2), code=1 if fresh else 2, fresh=fresh)
    (line,) = error_lines(printed)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_accelerates_file_is_held_against_our_configuration(shards: Path, tmp_path: Path) -> None:
    """What it may say otherwise: tests/pretrain/test_preflight.py."""
    file = tmp_path / "accelerate.yaml"
    file.write_text(CONFIG)
    launch = [*ACCELERATE, "--config_file", str(file), *pretrain(tmp_path / "run", shards)[1:]]
    (line,) = error_lines(finish(launch, code=1, fresh=True))
    assert "accelerate's own configuration has use_fsdp=true, ours has parallel.strategy=ddp" in line


def test_a_low_soft_limit_of_open_files_is_raised_and_a_low_hard_one_reported(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = pretrain(run, shards, *EACH, "steps=1", ranks=2)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, {}))"
    printed = finish(
        command, code=2, before=limit.format(20) + "; from dira_scale.base import errors; errors.PAUSE = 0"
    )
    lines = error_lines(printed)  # without a launcher that would have ended the second
    assert len(lines) == 2, printed
    assert all("allows a process 20 open files, and connecting 2 processes takes at least" in line for line in lines)
    assert not run.exists()
    printed = finish(command, before=limit.format(100))
    assert printed.count("allows a process 100 open files") == 1
