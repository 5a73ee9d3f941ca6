"""Archives are sharded, datasets curated and machines surveyed where the extra `train`, torch in it, is not installed;
what trains says so in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

from harness import SECONDS
from packaging.requirements import Requirement
from test_absent import EXTRAS, MODULES, OPTIONAL, ROOT

from dira_scale.commands import COMMANDS

IMPORTED = {"scikit-learn": "sklearn"} | MODULES
TRAIN = [Requirement(line).name for line in EXTRAS["train"]]
HIDDEN = [*OPTIONAL, "torchvision", "nvidia", *(IMPORTED.get(name, name.replace("-", "_")) for name in TRAIN)]
# All in one process, whose workers are processes of their own.
CALLS = """
import json, sys
from importlib import import_module
from dira_scale import api

def code(name, words):
    try:
        return import_module(f"dira_scale.{name}").main(words)
    except SystemExit as end:
        return end.code

codes = [code(name, words) for name, *words in json.loads(sys.argv[1])]
print(json.dumps([codes, "torch" in sys.modules]))
"""


def call(folder: Path, *commands: str) -> tuple[list[int], str]:
    """Return the exit codes of these commands without the packages, and what they printed."""
    path = [ROOT / "tests" / "bare", ROOT / "tests", ROOT]
    environment = os.environ | {"PYTHONPATH": ":".join(map(str, path)), "ABSENT": ",".join(HIDDEN)}
    typed = json.dumps([command.split() for command in commands])
    done = subprocess.run([sys.executable, "-c", CALLS, typed], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=SECONDS)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *printed, last = done.stdout.splitlines()
    codes, torch = json.loads(last)
    assert not torch
    return codes, "\n".join(printed) + done.stderr


SMALL = "recipe=phantom_cxr recipe.size=64 workers=2"


def test_an_archive_becomes_shards(tmp_path: Path) -> None:
    """With workers; masks are read for the advice of the next command."""
    codes, printed = call(
        tmp_path,
        f"shard plan {SMALL} recipe.patients=4 sample=2",
        f"shard {SMALL} recipe.patients=12 out=a",
        "shard recipe=phantom_ct recipe.patients=1 recipe.size=32 workers=1 out=b",
        "shard stats path=a",
        "shard verify path=a",
        "shard subset path=a out=c where={split:train}",
        "shard subset path=a out=d where={split:[val,test]}",
        "shard merge paths=[c,d] out=e",
        "shard audit path=a source=out/phantom_cxr/patients12-size64-seed0/dicom workers=1",
        "shard convert path=a",
        f"shard repair {SMALL} recipe.patients=12 path=a",
    )
    assert codes == [0] * len(codes), printed
    assert "task=masks" in printed
    assert (tmp_path / "a.stats.html").is_file()


def test_what_needs_torch_is_refused_in_one_line(tmp_path: Path) -> None:
    """And each command says what its keys are."""
    need = [name for name, row in COMMANDS.items() if row.torch and name != "bench"]
    need += ["bench step", "doctor shards=a", "plan finetune"]
    codes, printed = call(tmp_path, *need)
    assert codes == [2] * len(need)
    assert printed.count("the extra `train` (torch not installed): python3 setup/install.py train") == len(need)
    assert "pretrain: it needs the extra `train`" in printed
    others = ["doctor", "doctor show=json", "sweep sweep=shard_slices cluster=local dry_run=true"]
    codes, printed = call(tmp_path, *(f"{name} --help" for name in COMMANDS), *others)
    assert codes == [0] * (len(COMMANDS) + len(others))
    assert "torch: training, and every command that uses a network; shard does without" in printed
