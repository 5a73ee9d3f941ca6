"""A command of its own joins by its folder, its file in ``configs/`` and its name in the list; nothing else changes.

The checkout that it joins is a folder of links to this one, with a copy of ``dira_scale/commands.py`` that names it.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
LAST = '"bench",\n)'
SWEEP = """
name: squares
phases:
  squares: {command: toy, list: [{number: 3}, {number: 4, after: allowed}]}
"""
TRAINED = """
name: bright
phases:
  bright:
    command: brightness
    set: {data.shards: shards, data.size: 32, data.batch: 8, data.workers: 1, model.encoder: test_resnet,
          model.bn_groups: 1}
"""
WORDS = ["data.size=32", "data.batch=8", "data.workers=1", "model.encoder=test_resnet", "model.bn_groups=1"]


@dataclass
class Checkout:
    """A checkout of the project with the command; sweeps are started in ``here``."""

    root: Path
    here: Path

    def run(self, *words: str, code: int = 0) -> str:
        """What ``dira_scale WORDS`` prints."""
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        command = [sys.executable, "-m", "dira_scale", *words]
        done = subprocess.run(
            command, cwd=self.here, env=environment, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sweep(self, *words: str, code: int = 0) -> str:
        return self.run("sweep", "--config-dir", "own", "sweep=squares", "cluster.tries=1", *words, code=code)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root, here = tmp_path / "checkout", tmp_path / "here"
    for folder in ("dira_scale", "configs"):
        (root / folder).mkdir(parents=True)
        for path in (ROOT / folder).iterdir():
            (root / folder / path.name).symlink_to(path)
    for name in ("pyproject.toml", "shards", "slurm"):
        (root / name).symlink_to(ROOT / name)
    table = (ROOT / "dira_scale" / "commands.py").read_text()
    assert table.count(LAST) == 1
    (root / "dira_scale" / "commands.py").unlink()
    (root / "dira_scale" / "commands.py").write_text(table.replace(LAST, '"bench", "toy", "brightness",\n)'))
    for name in ("toy", "brightness"):
        shutil.copytree(ROOT / "tests" / "toy" / name, root / "dira_scale" / name)
    for file in (ROOT / "tests" / "toy").glob("*.yaml"):
        shutil.copy(file, root / "configs")
    (here / "own" / "sweep").mkdir(parents=True)
    (here / "own" / "sweep" / "squares.yaml").write_text(SWEEP)
    (here / "own" / "sweep" / "bright.yaml").write_text(TRAINED)
    return Checkout(root, here)


@pytest.mark.system
def test_a_new_command_is_listed_checked_swept_and_read(checkout: Checkout) -> None:
    assert "  toy        the square of a number\n" in checkout.run("--help")
    assert "number=13: expected a number that is not 13; nothing was started" in checkout.sweep(
        "squares.number=13", code=2
    )

    checkout.sweep(code=1)
    assert "1 done, 1 failed; 2 runs" in checkout.run("sweep", "status", "sweep=squares", code=1)
    assert "/here/allowed is missing" in checkout.run("sweep", "logs", "sweep=squares")
    (checkout.here / "allowed").touch()
    checkout.run("sweep", "retry", "sweep=squares")
    assert "2 done; 2 runs" in checkout.run("sweep", "status", "sweep=squares")
    folder = checkout.here / "out" / "sweeps" / "squares"
    tries = {run.name.rpartition("-")[0]: len(list(run.glob("tries/*.json"))) for run in folder.glob("squares/*")}
    assert tries == {"number3": 1, "number4-allowed": 2}
    assert "2 runs: 2 done" in checkout.sweep("squares.workers=2", "dry_run=true")  # has no effect: no other runs

    checkout.run("sweep", "results", "sweep=squares")
    rows = pq.read_table(folder / "results.parquet").to_pylist()
    assert {(row["squares.number"], row["metric"], row["value"]) for row in rows} == {
        (3, "square", 9), (3, "root", 3), (4, "square", 16), (4, "root", 4),
    }  # fmt: skip
    page = (folder / "results.md").read_text()
    assert re.search(r"\| square +\| 16 +\|", page) and "root" not in page


@pytest.mark.system
def test_a_new_command_that_trains_is_planned_swept_exported_and_reported(checkout: Checkout) -> None:
    """By its blueprint alone: no other command names it."""
    made = ["recipe=phantom_cxr", "out=shards", "recipe.patients=16", "recipe.size=64", "workers=1"]
    checkout.run("shard", *made)
    assert (
        "stage learn" in (reported := checkout.run("plan", "brightness", *WORDS, "plan.gpus=2")) and "ddp" in reported
    )

    sweep = ["sweep", "--config-dir", "own", "sweep=bright", "cluster.tries=1"]
    wrong = checkout.run(*sweep, "bright.data.batch=9", "bright.model.bn_groups=2", code=2)
    assert "model.bn_groups=2: expected one of 1, 3, groups of at least 2 of 9 samples" in wrong
    assert "nothing was started" in wrong
    started = checkout.run(*sweep, "cluster.plan={memory: 80, tflops: 104, bandwidth: 0.79, price: 0}")
    assert "bright: " in started and "GB of GPU memory in each process" in started

    (run,) = (checkout.here / "out" / "sweeps" / "bright" / "bright").glob("*/output")
    checkout.run("export", f"run={run}", "formats=timm")
    card = (run / "export" / "README.md").read_text()
    assert "trained on how bright images are" in card and list((run / "export").glob("*.safetensors"))
    checkout.run("report", f"run={run}")
    assert "Brightness run" in (run / "report.html").read_text()
