"""A mistake on the command line is named before torch is imported, which takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dira_scale import cli
from dira_scale.commands import COMMANDS

WITHOUT_TORCH = """
import sys
from pathlib import Path
from importlib import import_module

for words in (line.split() for line in sys.stdin):
    code = import_module(f"dira_scale.{words[0]}").main([*words[1:], "nosuch=1"])
    assert code == 2, f"{words}: exit code {code}"
    assert "torch" not in sys.modules, f"{words} imported torch"
"""


def test_every_command_refuses_an_unknown_key_without_torch() -> None:
    lines = [name for name in COMMANDS if name != "sweep"]
    lines += [f"{row.name} {subcommand}" for row in COMMANDS.values() for subcommand in row.subcommands]
    lines += ["sweep sweep=ablation_small"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    messages = done.stderr.splitlines()
    assert len(messages) == len(lines) and all("nosuch" in line for line in messages)


def test_help_needs_no_torch_nor_does_a_sweeps_table() -> None:
    run = "import sys\nfrom importlib import import_module\nfor name in ('pretrain', 'probe', 'export', 'plan'):\n"
    run += "    try: import_module(f'dira_scale.{name}').main(['--help'])\n    except SystemExit: pass\n"
    run += "import dira_scale.judge.evaluation.embeddings, dira_scale.sweep.results\n"
    script = run + "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("KEY=VALUE in") == 4, done.stderr


def test_ctrl_c_is_one_line_in_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    def pressed(_: object) -> None:
        raise KeyboardInterrupt

    assert cli.run("doctor", pressed, []) == cli.run("shard_audit", pressed, ["path=x"]) == 75
    assert capsys.readouterr().err.split("\n") == [
        "", "doctor: interrupted; run the same command again",
        "", "shard audit: interrupted; finished work is kept; run the same command again", "",
    ]  # fmt: skip


def test_ctrl_c_while_python_still_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "dira_scale.probe"], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (75, "\nprobe: interrupted; run the same command again\n")
