"""Measures a GPU machine from a plain checkout, without network and without installing anything.

    python3 setup/gpu.py wheels [VERSION ...]   collect what such a machine may lack (with network)
    python3 setup/gpu.py check [FLAGS]          run `dira_scale.bench gpu FLAGS` there

The Python that runs ``check`` must have torch, timm and numpy, as GPU containers do (benchmarks/gpu/machine.py lists
what they have and what is carried). Other missing packages are unpacked from the wheels into a separate folder that
only this command sees, so the machine stays unchanged. Needs only the standard library and pip.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.gpu.machine import CARRIED, REQUIRED, missing  # noqa: E402

WHEELS = ROOT / "out" / "gpu-wheels"
SITE = ROOT / "out" / "gpu-site"
VERSIONS = ("3.11", "3.12", "3.13")
MANYLINUX = ("_2_28", "_2_17", "_2_12", "_2_5", "2014", "2010")
SECONDS = 590  # of unpacking and measuring, at most: such machines are lent for ten minutes a call
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
    """Collect wheels of ``CARRIED``, at the tested versions, for these Python versions on Linux."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    pinned = ["-q", "--disable-pip-version-check", "--no-deps", "-c", str(ROOT / "constraints.txt")]
    names = [name for name in CARRIED if name != SOURCE_ONLY]
    commands = [["wheel", *pinned, "-w", str(WHEELS), SOURCE_ONLY]]
    platforms = [f"--platform=manylinux{kind}_{platform.machine()}" for kind in MANYLINUX]
    for number in versions:
        target = ["--only-binary=:all:", "--python-version", number, "--implementation=cp", *platforms]
        commands.append(["download", *pinned, *target, "-d", str(WHEELS), *names])
    for command in commands:
        if subprocess.run([sys.executable, "-m", "pip", *command]).returncode:
            print(f"gpu-wheels: pip failed: {' '.join(command)}", file=sys.stderr)
            return 1
    result, name = [*WHEELS.iterdir()], WHEELS.relative_to(ROOT)
    size = sum(path.stat().st_size for path in result) / 1e6
    print(f"{name}: {len(result)} wheels for Python {', '.join(versions)}, {size:.1f} MB")
    print(f"copy the checkout with {name} to the GPU machine and run there: python3 setup/gpu.py check")
    return 0


def check(flags: list[str]) -> int:
    """Run ``dira_scale.bench gpu`` with this Python and the missing packages; return its exit code."""
    began = time.monotonic()
    absent = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if absent or sys.version_info < (3, 11):
        have = f"Python {platform.python_version()}" + (f" without {', '.join(absent)}" if absent else "")
        print(f"gpu-check: {sys.executable} is {have}; use 3.11 or newer with {', '.join(REQUIRED)}: "
              "PYTHON setup/gpu.py check", file=sys.stderr)  # fmt: skip
        return 2
    shutil.rmtree(SITE, ignore_errors=True)
    lacking = missing()
    if lacking and not WHEELS.is_dir():
        print(f"gpu-check: {', '.join(lacking)} missing: run python3 setup/gpu.py wheels on a machine with network and "
              f"copy {WHEELS.relative_to(ROOT)} here", file=sys.stderr)  # fmt: skip
        return 2
    if lacking:
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index"]
        command += ["--no-deps", "--find-links", str(WHEELS), "--target", str(SITE), *lacking]
        if subprocess.run(command).returncode:
            print("gpu-check: pip could not install the wheels, see above", file=sys.stderr)
            return 2
        print(f"from {WHEELS.relative_to(ROOT)}: {', '.join(lacking)}", flush=True)
    # SITE holds only missing packages, so it hides none of the machine's own.
    path = os.pathsep.join([str(ROOT), str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])])
    left = [] if "--seconds" in flags else ["--seconds", f"{SECONDS - (time.monotonic() - began):.0f}"]
    command = [sys.executable, "-m", "dira_scale.bench", "gpu", *left, *flags]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
