"""A command of its own joins by its folder, its file in ``configs/`` and its name in the list; nothing else changes.

The checkout that it joins is a folder of links to this one, with a copy of ``dira_scale/commands.py`` that names it.
"""

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import SECONDS

from benchmarks.gpu.bounded import end

ROOT = Path(__file__).parents[2]
LAST = '"bench",\n)'
TRAINED = """
name: bright
phases:
  bright:
    command: brightness
    set: {data.shards: shards, data.size: 32, data.batch: 8, data.workers: 1, model.encoder: test_resnet,
          model.bn_groups: 1}
"""
WORDS = ["data.size=32", "data.batch=8", "data.workers=1", "model.encoder=test_resnet", "model.bn_groups=1"]


# Commands are called in one Python, which imports torch once; a sweep's runs are processes of their own.
CALLS = """
import json, os, sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what C code and other processes print is no answer
for line in sys.stdin:
    name, *words = json.loads(line)
    with redirect_stdout(StringIO()) as out, redirect_stderr(out):
        code = import_module(f"dira_scale.{name}").main(words)
    print(json.dumps([code, out.getvalue()]), file=answers, flush=True)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Callable[..., str]]]:
    """A folder, and what calls commands of the checkout there: it returns what ``dira_scale WORDS`` prints."""
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
    (root / "dira_scale" / "commands.py").write_text(table.replace(LAST, '"bench", "brightness",\n)'))
    shutil.copytree(ROOT / "tests" / "toy" / "brightness", root / "dira_scale" / "brightness")
    for file in (ROOT / "tests" / "toy").glob("*.yaml"):
        shutil.copy(file, root / "configs")
    (here / "own" / "sweep").mkdir(parents=True)
    (here / "own" / "sweep" / "bright.yaml").write_text(TRAINED)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(here)
    assert "  brightness learn how bright images are\n" in typed("--help")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CALLS], stdin=pipe, stdout=pipe, text=True) as calls:
        assert calls.stdin and calls.stdout

        def call(*words: str, code: int = 0) -> str:
            print(json.dumps(words), file=calls.stdin, flush=True)
            assert select.select([calls.stdout], [], [], SECONDS)[0], f"{words}: no answer in {SECONDS} s"
            actual, printed = json.loads(calls.stdout.readline() or '["no answer", "it has ended"]')
            assert actual == code, printed
            return str(printed)

        try:
            yield here, call
        finally:
            end(calls.pid)


def typed(*words: str) -> str:
    """Return what the command line prints."""
    command = [sys.executable, "-m", "dira_scale", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.system
def test_a_new_command_that_trains_is_planned_swept_exported_and_reported(
    here: tuple[Path, Callable[..., str]],
) -> None:
    """By its blueprint alone: no other command names it."""
    folder, call = here
    call("shard", "recipe=phantom_cxr", "out=shards", "recipe.patients=16", "recipe.size=64", "workers=1")
    reported = call("plan", "brightness", *WORDS, "plan.gpus=2")
    assert "stage learn" in reported and "ddp" in reported
    typed("brightness", *WORDS, "data.shards=shards", "run=typed", "steps=1")
    assert json.loads((folder / "typed" / "status.json").read_text())["step"] == 1

    sweep = ["sweep", "--config-dir", "own", "sweep=bright", "cluster.tries=1"]
    wrong = call(*sweep, "bright.data.batch=9", "bright.model.bn_groups=2", code=2)
    assert "model.bn_groups=2: expected one of 1, 3, groups of at least 2 of 9 samples" in wrong
    assert "nothing was started" in wrong
    started = call(*sweep, "cluster.plan={memory: 80, tflops: 104, bandwidth: 0.79, price: 0}")
    assert "bright: " in started and "GB of GPU memory in each process" in started
    assert "1 run: 1 done" in call(*sweep, "bright.log_every=2", "dry_run=true")  # has no effect: no other run

    (run,) = (folder / "out" / "sweeps" / "bright" / "bright").glob("*/output")
    call("export", f"run={run}", "formats=timm")
    card = (run / "export" / "README.md").read_text()
    assert "trained on how bright images are" in card and list((run / "export").glob("*.safetensors"))
    call("report", f"run={run}")
    assert "Brightness run" in (run / "report.html").read_text()
