"""Measures a GPU machine from a plain checkout, without network and without installing anything.

    python3 setup/gpu.py wheels [VERSION ...]   collect what such a machine may lack (with network; `make gpu-wheels`)
    python3 setup/gpu.py check [FLAGS]          run `dira_scale.bench gpu FLAGS` there (`make gpu-check`)

The Python that runs ``check`` must have torch, timm and numpy, as GPU containers do. Other missing packages are
unpacked from the wheels into a separate folder that only this command sees, so the machine stays unchanged. Needs only
the standard library and pip.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "out" / "gpu-wheels"
SITE = ROOT / "out" / "gpu-site"
VERSIONS = ("3.11", "3.12", "3.13")
LIMIT = 40e6  # bytes of all wheels, which are copied by hand
REQUIRED = ("torch", "timm", "numpy")  # with their dependencies
# Package -> a module to test for its presence. First what the ladder imports, then pytest's, then what else pretraining
# runs in the tests import. Those also need pyarrow, scikit-learn, scikit-image, OpenCV and TensorBoard, which are too
# large to copy: without them, such tests are listed and skipped.
NEEDED = {
    "hydra-core": "hydra", "omegaconf": "omegaconf", "antlr4-python3-runtime": "antlr4", "pyyaml": "yaml",
    "accelerate": "accelerate", "psutil": "psutil", "safetensors": "safetensors", "xxhash": "xxhash",
    "segmentation-models-pytorch": "segmentation_models_pytorch", "packaging": "packaging", "tqdm": "tqdm",
    "pytest": "pytest", "pytest-timeout": "pytest_timeout", "pluggy": "pluggy", "iniconfig": "iniconfig",
    "pygments": "pygments",
    "rich": "rich", "markdown-it-py": "markdown_it", "mdurl": "mdurl", "pydicom": "pydicom",
    "imagecodecs": "imagecodecs", "simplejpeg": "simplejpeg",
}  # fmt: skip
SOURCE_ONLY = "antlr4-python3-runtime"  # Hydra's version of it has no wheel


def main(words: list[str]) -> int:
    """``wheels`` or ``check``."""
    if words[:1] == ["wheels"]:
        return wheels(words[1:] or list(VERSIONS))
    if words[:1] == ["check"]:
        return check(words[1:])
    print(__doc__)
    return 2


def wheels(versions: list[str]) -> int:
    """Collect wheels of ``NEEDED``, at the tested versions, for these Python versions on Linux."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    pinned = ["-q", "--disable-pip-version-check", "--no-deps", "-c", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip"]
    commands = [[*pip, "wheel", *pinned, "-w", str(WHEELS), SOURCE_ONLY]]
    glibc = [f"--platform=manylinux_2_{n}_{platform.machine()}" for n in (28, 17, 12, 5)]
    old = [f"--platform=manylinux{n}_{platform.machine()}" for n in (2014, 2010)]
    for number in versions:
        target = ["--only-binary=:all:", "--python-version", number, "--implementation=cp", *glibc, *old]
        names = [name for name in NEEDED if name != SOURCE_ONLY]
        commands.append([*pip, "download", *pinned, *target, "-d", str(WHEELS), *names])
    for command in commands:
        if subprocess.run(command).returncode:
            print(f"gpu-wheels: pip failed: {' '.join(command)}", file=sys.stderr)
            return 1
    found = sorted(WHEELS.iterdir())
    size = sum(path.stat().st_size for path in found)
    print(f"{WHEELS.relative_to(ROOT)}: {len(found)} wheels for Python {', '.join(versions)}, {size / 1e6:.1f} MB")
    if size > LIMIT:
        print(f"gpu-wheels: expected at most {LIMIT / 1e6:.0f} MB", file=sys.stderr)
        return 1
    print("copy the checkout with that folder to the GPU machine and run there: make gpu-check")
    return 0


def check(flags: list[str]) -> int:
    """Run ``dira_scale.bench gpu`` with this Python and the missing packages; return its exit code."""
    absent = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if absent or sys.version_info < (3, 11):
        have = f"Python {platform.python_version()}" + (f" without {', '.join(absent)}" if absent else "")
        print(f"gpu-check: {sys.executable} is {have}; use 3.11 or newer with {', '.join(REQUIRED)}: "
              "make gpu-check PYTHON=…", file=sys.stderr)  # fmt: skip
        return 2
    shutil.rmtree(SITE, ignore_errors=True)
    missing = [name for name, module in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing and not WHEELS.is_dir():
        print(f"gpu-check: {', '.join(missing)} missing: run make gpu-wheels on a machine with network and copy "
              f"{WHEELS.relative_to(ROOT)} here", file=sys.stderr)  # fmt: skip
        return 2
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
        command += ["--no-deps", "--find-links", str(WHEELS), "--target", str(SITE), *missing]
        if subprocess.run(command).returncode:
            print("gpu-check: pip could not install the wheels, see above", file=sys.stderr)
            return 2
        print(f"from {WHEELS.relative_to(ROOT)}: {', '.join(missing)}", flush=True)
    # SITE holds only missing packages, so it hides none of the machine's own.
    path = os.pathsep.join([str(ROOT), str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "dira_scale.bench", "gpu", *flags]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
