"""The wheel, away from the checkout: configurations, recipes and templates travel in it, and the whole way works; up to
shards with nothing but what the wheel requires."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from harness import SECONDS, TINY
from packaging.requirements import Requirement

from dira_scale.commands import COMMANDS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.system


def run(*command: str | Path, folder: Path, code: int = 0) -> str:
    """Run ``command`` in ``folder`` without this checkout on the path, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a virtual environment that has the wheel, and the packages of this one behind it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, folder=folder)
    (wheel,) = folder.glob("dira_scale-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A path named by a .pth file comes after the environment's own, and .pth files in it are not read: no editable
    # install shines through.
    behind = folder / "venv" / "lib" / version / "site-packages" / "behind.pth"
    behind.write_text("\n".join(path for path in sys.path if Path(path).name == "site-packages") + "\n")
    run(python, "-m", "dira_scale.base.machine.torchvision_ops", folder=folder)
    assert str(folder) in run(python, "-c", "import dira_scale; print(dira_scale.__file__)", folder=folder)
    return python.parent


def test_help_knows_configurations_and_recipes(installed: Path, tmp_path: Path) -> None:
    assert "dira_scale COMMAND" in run(installed / "dira_scale", "--help", folder=tmp_path)
    pretrain = run(installed / "dira_scale", "pretrain", "--help", folder=tmp_path)
    experiments = {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}
    assert f"experiment=  one of {', '.join(sorted(experiments))}" in pretrain
    shard = run(installed / "dira_scale", "shard", "--help", folder=tmp_path)
    recipes = {path.stem for path in (ROOT / "shards" / "recipe").glob("*.yaml")}
    assert f"recipe=  one of {', '.join(sorted(recipes))}" in shard


def required(by: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """The packages that pip installs with one: those that it requires, with the extras of theirs that it asks for."""
    found: dict[str, Distribution] = {}
    for requirement in map(Requirement, by.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            package = distribution(requirement.name)
            found |= {requirement.name: package} | required(package, requirement.extras)
    return found


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
print(json.dumps([codes, "torch" in sys.modules]), file=sys.stderr)
"""
SMALL = "recipe=phantom_cxr recipe.size=64 workers=2"
SHARDING = (  # masks are read for the advice of the second command
    f"shard plan {SMALL} recipe.patients=4 sample=2",
    f"shard {SMALL} recipe.patients=16 out=shards",
    "shard recipe=phantom_ct recipe.patients=1 recipe.size=32 workers=1 out=b",
    "shard stats path=shards",
    "shard verify path=shards",
    "shard subset path=shards out=c where={split:train}",
    "shard subset path=shards out=d where={split:[val,test]}",
    "shard merge paths=[c,d] out=e",
    "shard audit path=shards source=out/phantom_cxr/patients16-size64-seed0/dicom workers=1",
    "shard convert path=shards",
    f"shard repair {SMALL} recipe.patients=16 path=shards",
    "doctor",
    "doctor show=json",
    "sweep sweep=shard_slices cluster=local dry_run=true",
    *(f"{name} --help" for name in COMMANDS),
)
REFUSED = [name for name, row in COMMANDS.items() if row.torch and name != "bench"]
REFUSED += ["bench step", "doctor shards=a", "plan finetune"]


def test_without_the_extra_train_it_shards_and_with_it_goes_on_to_a_report(installed: Path, tmp_path: Path) -> None:
    """First there is nothing behind the environment but what the wheel requires."""
    (site,) = installed.parent.glob("lib/*/site-packages")
    (wheel,) = site.glob("dira_scale-*.dist-info")
    only, behind, command = tmp_path / "only", site / "behind.pth", installed / "dira_scale"
    only.mkdir()
    for package in required(Distribution.at(wheel), set()).values():
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (only / top).exists():
                (only / top).symlink_to(package.locate_file(top))
    before = behind.read_text()
    behind.write_text(f"{only}\n")

    def call(words: Sequence[str], code: int) -> str:
        typed = json.dumps([word.split() for word in words])
        *printed, last = run(installed / "python", "-c", CALLS, typed, folder=tmp_path).splitlines()
        assert json.loads(last) == [[code] * len(words), False], printed
        return "\n".join(printed)

    try:
        assert not (only / "torch").exists()
        printed = call(SHARDING, 0)
        assert "task=masks" in printed and (tmp_path / "shards.stats.html").is_file()
        assert "torch: training, and every command that uses a network; shard does without" in printed
        printed = call(REFUSED, 2)
        refused = "the extra `train` (torch not installed): python3 setup/install.py train"
        assert printed.count(refused) == len(REFUSED), printed
        assert "pretrain: it needs the extra `train`" in printed
    finally:
        behind.write_text(before)
    for words in (
        ["pretrain", *TINY, "data.shards=shards", "run=demo"],
        ["export", "run=demo"],
        ["report", "run=demo"],
    ):
        run(command, *words, folder=tmp_path)
    assert (tmp_path / "demo" / "export" / "unet.safetensors").is_file()
    assert (tmp_path / "demo" / "report.html").is_file()
