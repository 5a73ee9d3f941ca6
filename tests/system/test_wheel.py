"""The wheel, away from the checkout: configurations, recipes and templates travel in it, and the whole way works; up to
shards with nothing but what the wheel requires."""

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from harness import SECONDS, TINY
from packaging.requirements import Requirement

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


def test_from_phantoms_to_a_report(installed: Path, tmp_path: Path) -> None:
    command = installed / "dira_scale"
    recipe = ["recipe=phantom_cxr", "recipe.patients=16", "recipe.size=128", "out=shards"]
    run(command, "shard", *recipe, folder=tmp_path)
    run(command, "pretrain", *TINY, "data.shards=shards", "run=demo", folder=tmp_path)
    run(command, "export", "run=demo", folder=tmp_path)
    run(command, "report", "run=demo", folder=tmp_path)
    assert (tmp_path / "demo" / "export" / "unet.safetensors").is_file()
    assert (tmp_path / "demo" / "report.html").is_file()


def required(by: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """The packages that pip installs with one: those that it requires, with the extras of theirs that it asks for."""
    found: dict[str, Distribution] = {}
    for requirement in map(Requirement, by.requires or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            package = distribution(requirement.name)
            found |= {requirement.name: package} | required(package, requirement.extras)
    return found


def test_without_the_extra_train_it_shards(installed: Path, tmp_path: Path) -> None:
    """Behind the environment is nothing but what the wheel requires."""
    (site,) = installed.parent.glob("lib/*/site-packages")
    (wheel,) = site.glob("dira_scale-*.dist-info")
    only, behind = tmp_path / "only", site / "behind.pth"
    only.mkdir()
    for package in required(Distribution.at(wheel), set()).values():
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (only / top).exists():
                (only / top).symlink_to(package.locate_file(top))
    before = behind.read_text()
    behind.write_text(f"{only}\n")
    try:
        assert not (only / "torch").exists()
        command = installed / "dira_scale"
        recipe = ["recipe=phantom_cxr", "recipe.patients=8", "recipe.size=64", "out=shards"]
        run(command, "shard", *recipe, folder=tmp_path)
        run(command, "shard", "stats", "path=shards", folder=tmp_path)
        refused = run(command, "pretrain", *TINY, "data.shards=shards", "run=demo", folder=tmp_path, code=2)
        assert "pip install 'dira_scale[train]'" in refused
    finally:
        behind.write_text(before)
    run(command, "pretrain", *TINY, "data.shards=shards", "data.batch=4", "run=demo", "steps=1", folder=tmp_path)
