"""Sets up ``.venv``: torch for this machine first, then dira_scale and its dependencies at constraints.txt's versions.

    python3 setup/install.py [EXTRA ...]        (`make setup`, `make test`, `make pretrain` call it)

Needs only Python's standard library. Returns at once if nothing has changed; after an interruption, the same command
resumes. ``ACCELERATOR=cpu|cuda`` overrides the detection. An installed torch is kept. A GPU machine also gets DALI, and
there the set-up fails if torch cannot use the GPU.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

from progress import WHEEL, show_progress

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
STAMP = VENV / "install.json"
SITE_PACKAGES = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
UV = VENV / "bin" / "uv"
STANDARD_CUDA = 13  # major version of the CUDA in the pinned torch's wheels on pip's standard index
PATIENCE = 10  # seconds for an answer when uv is fetched and asked, with one retry: at most a minute in all


class SetupError(Exception):
    """The set-up cannot go on; says why, and what to do about it."""


def main(extras: list[str]) -> int:
    """Bring ``.venv`` up to date with ``extras``; returns 0 on success."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        accelerator = chosen_accelerator()
        wanted = {"key": key(accelerator), "extras": sorted({*extras, *gpu_extras(accelerator, extras)})}
        if not up_to_date(wanted):
            VENV.mkdir(exist_ok=True)
            with (VENV / ".lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    print("another set-up is running; waiting for it")
                    fcntl.flock(file, fcntl.LOCK_EX)
                if not up_to_date(wanted):  # another set-up may have finished while this one waited
                    install(accelerator, wanted)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run the same command to resume", file=sys.stderr)
        return 130
    return 0


def install(accelerator: str, wanted: dict) -> None:
    """All steps of the set-up, in order; each reuses what an earlier call has done."""
    start = time.monotonic()
    make_venv()
    LOG.write_text("")
    pin = pinned("torch")
    kept = installed("torch")
    if kept:
        print(f"torch        {kept} is installed and is kept")
    else:
        install_torch(f"torch=={pin}", accelerator)
    extras = ",".join(["train", *wanted["extras"]])
    pip("packages", "-c", str(constraints(installed("torch"), pin)), "-e", f"{ROOT}[{extras}]")
    hook = subprocess.run(
        [PYTHON, "-m", "dira_scale.base.machine.torchvision_ops"], capture_output=True, text=True, cwd=ROOT
    )
    if hook.returncode:
        raise SetupError(f"{' '.join(map(str, hook.args))} failed:\n{hook.stdout}{hook.stderr}")
    if accelerator == "cuda":
        require_gpu()
    check()
    stamp = STAMP.with_suffix(".new")
    stamp.write_text(json.dumps(wanted))
    stamp.replace(STAMP)
    print(f"set up in {time.monotonic() - start:.0f} s; the log is {LOG.relative_to(ROOT)}")


# What is installed, what is wanted


def chosen_accelerator() -> str:
    """``cpu`` or ``cuda``: the value of ``ACCELERATOR``, else ``cuda`` if the NVIDIA driver shows a GPU."""
    given = os.environ.get("ACCELERATOR")
    if given not in (None, "", "cpu", "cuda"):
        raise SetupError(f"ACCELERATOR={given}: expected cpu or cuda")
    return given or ("cuda" if shows_gpu() else "cpu")


def shows_gpu() -> bool:
    """Return whether the NVIDIA driver shows a GPU."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    smi = shutil.which("nvidia-smi")
    return bool(smi) and subprocess.run([smi, "-L"], capture_output=True).stdout.startswith(b"GPU")


def gpu_extras(accelerator: str, extras: list[str]) -> list[str]:
    """The extra that decodes images on this machine's GPU: DALI for the CUDA version that the driver supports."""
    if accelerator == "cpu" or any(extra.startswith("dali") for extra in extras):
        return []
    return ["dali-cuda12"] if (driver_cuda() or "").startswith("12.") else ["dali"]


def driver_cuda() -> str | None:
    """The version of CUDA that the NVIDIA driver supports, such as 12.8; None without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if failed else f"{version.value // 1000}.{version.value % 1000 // 10}"


def key(accelerator: str) -> str:
    """A hash of everything that an installed environment depends on."""
    text = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "setup/install.py")]
    return hashlib.sha256(repr((text, str(ROOT), sys.version, accelerator)).encode()).hexdigest()


def up_to_date(wanted: dict) -> bool:
    """Return whether the last finished set-up has what is wanted. Adds its extras to ``wanted``, to keep them."""
    if not (STAMP.exists() and PYTHON.exists()):
        return False
    try:
        done = json.loads(STAMP.read_text())
    except json.JSONDecodeError:  # emptied by a power cut: run all steps again
        return False
    if done["key"] == wanted["key"] and set(wanted["extras"]) <= set(done["extras"]):
        return True
    wanted["extras"] = sorted({*wanted["extras"], *done["extras"]})
    return False


def pinned(name: str) -> str:
    """The version of ``name`` in constraints.txt."""
    result = re.search(rf"^{name}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert result, f"constraints.txt does not pin {name}"
    return result[1]


def installed(name: str, python: Path | str = PYTHON) -> str | None:
    """The version of ``name`` that ``python`` sees, or None."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def constraints(torch: str | None, pin: str) -> Path:
    """constraints.txt with torch pinned to the installed build (and torchvision free if torch is another version)."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    free = ("torch==",) if torch and torch.split("+")[0] == pin else ("torch==", "torchvision==")
    path = VENV / "constraints.txt"
    path.write_text("\n".join([f"torch=={torch}", *(line for line in lines if not line.startswith(free))]) + "\n")
    return path


# The steps


def make_venv() -> None:
    """``.venv`` with a working pip; it sees the packages of a system Python that has torch."""
    if sys.version_info < (3, 11):  # noqa: UP036  this file runs before any requirement is checked
        raise SetupError(f"expected Python 3.11 or newer, got {platform.python_version()}: make PYTHON=python3.11 …")
    current, made_with = f"{sys.version_info.major}.{sys.version_info.minor}", venv_setting("version")
    before = ".".join(made_with.split(".")[:2])
    if PYTHON.exists() and before not in ("", current):  # its packages are for that one
        raise SetupError(
            f"{VENV} was made with Python {made_with}, and this is {current}: rm -rf .venv to use this one, "
            f"or make PYTHON=python{before} … to use that one"
        )
    for folder in SITE_PACKAGES.glob("*.dist-info"):  # pip installs again what was cut off: it writes INSTALLER last
        if not (folder / "INSTALLER").exists():
            shutil.rmtree(folder)
    if PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    print(f"environment  {VENV}")
    outer = sys.prefix == sys.base_prefix  # only a system Python's packages can be shared, not another environment's
    share = ["--system-site-packages"] if outer and installed("torch", sys.executable) else []
    if subprocess.run([sys.executable, "-m", "venv", *share, VENV]).returncode:
        raise SetupError("could not create a virtual environment; on Debian: apt-get install python3-venv")


def venv_setting(name: str) -> str:
    """An entry of ``.venv/pyvenv.cfg``; empty if there is none."""
    path = VENV / "pyvenv.cfg"
    result = re.search(rf"^{name} *= *(.*)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return result[1].strip() if result else ""


def check() -> None:
    """``pip check``. Only a note if the environment shares the outer Python's packages, which may conflict."""
    done = subprocess.run([PYTHON, "-m", "pip", "check"], capture_output=True, text=True)
    if done.returncode == 0:
        return
    if venv_setting("include-system-site-packages") != "true":
        raise SetupError(f"packages conflict; pip check reports:\n{done.stdout}{done.stderr}")
    print(
        f"             note: pip check reports, outer Python's packages included:\n{done.stdout}{done.stderr}",
        end="",
    )


def chosen_wheel(requirement: str) -> str:
    """The file name of the wheel that pip chooses for ``requirement``, without downloading it."""
    command = [PYTHON, "-u", "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", requirement]
    output = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if wheel := WHEEL.search(unquote(line)):
                process.kill()
                return wheel[1]
    raise SetupError(f"pip finds no wheel of {requirement} for this Python and machine:\n{''.join(output[-6:])}")


def install_torch(requirement: str, accelerator: str) -> None:
    """Install torch with pip, or with uv where pip would fetch a build that does not suit this machine.

    uv knows torch's own indexes, with its CPU builds and those for each version of CUDA, of which it takes the newest
    that the driver supports. It installs torch only: the packages that torch requires come with the rest, by pip and
    its settings.

    Raises:
        SetupError: neither finds a build that suits it.
    """
    pins = ("-c", str(ROOT / "constraints.txt"))
    wheel = chosen_wheel(requirement)
    reason = misfit(wheel, accelerator)
    if not reason:
        pip(f"torch for {accelerator}", *pins, requirement)
        return
    if accelerator == "cpu":
        backend, build, local, other = "cpu", "CPU build", "+cpu", "cuda installs the CUDA build anyway"
    else:
        backend, build, local, other = "auto", "build for the driver", "+cu", "cpu installs the CPU build"
    print(f"torch        {reason}; asking uv for the {build}")
    try:
        pip("uv", f"--timeout={PATIENCE}", "--retries=1", *pins, "uv")
        command = [str(UV), "pip", "install", "--python", str(PYTHON), f"--torch-backend={backend}", "--no-deps", *pins]
        ask_uv([*command, "--dry-run", requirement])
        logged(f"torch for {accelerator}", [*command, requirement])
        if local not in (result := installed("torch", PYTHON) or "nothing"):
            raise SetupError(f"uv ended without an error, and the environment has {result} as torch")
    except SetupError as error:
        raise SetupError(
            f"{reason}. It was not downloaded. uv, which knows where torch's builds are, was tried next:\n{error}\n"
            f"Point pip to the {build} and run again: set PIP_EXTRA_INDEX_URL to its index on torch's install page, or "
            f"PIP_FIND_LINKS to a folder with torch-{pinned('torch')}{local}*.whl. (ACCELERATOR={other}.)"
        ) from error


def ask_uv(command: list[str]) -> None:
    """Find out soon whether uv reaches torch's index: for the download it keeps its own patience, which is minutes.

    Raises:
        SetupError: it does not, or has no such torch.
    """
    patience = {"UV_HTTP_TIMEOUT": str(PATIENCE), "UV_HTTP_RETRIES": "1"}
    try:
        done = subprocess.run(command, env=os.environ | patience, capture_output=True, text=True, timeout=3 * PATIENCE)
    except subprocess.TimeoutExpired:
        raise SetupError(f"uv had no answer from torch's index within {3 * PATIENCE} s") from None
    if done.returncode:
        raise SetupError(f"uv failed on torch:\n{done.stdout}{done.stderr}".rstrip())


def misfit(wheel: str, accelerator: str) -> str:
    """Why pip's ``wheel`` of torch does not suit this machine; empty if it does.

    On Linux, a wheel without ``+cpu`` or ``+cu126`` in its name is the standard index's: for CUDA, on x86-64.
    """
    fetched, cuda = f"pip would fetch {wheel}", driver_cuda()
    if platform.system() != "Linux":
        return ""
    if accelerator == "cpu" and platform.machine() == "x86_64" and "+cpu" not in wheel:
        return f"this machine shows no GPU, and {fetched}: the CUDA build, several gigabytes"
    if accelerator == "cuda" and cuda and int(cuda.split(".")[0]) < STANDARD_CUDA and "+" not in wheel:
        return f"the NVIDIA driver supports CUDA {cuda}, and {fetched}: the build for CUDA {STANDARD_CUDA}"
    return ""


def require_gpu() -> None:
    """Raise SetupError if torch cannot use this machine's GPU; on one without, which installs for others, if torch is
    a CPU build."""
    code = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"
    visible = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([PYTHON, "-c", code], env=visible, capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"torch cannot be imported:\n{done.stderr}".rstrip())
    torch, cuda, usable = done.stdout.split()
    if usable == "True" or (cuda != "None" and not shows_gpu()):
        return
    driver = driver_cuda()
    raise SetupError(
        f"torch {torch} ({'a CPU build' if cuda == 'None' else f'for CUDA {cuda}'}) in {VENV} cannot use the GPU; the "
        f"NVIDIA driver {f'supports CUDA {driver}' if driver else 'has no libcuda.so.1'}. Remove that folder and run "
        "again, which chooses the build by the driver; if it is this one again, update the driver, or set "
        "PIP_EXTRA_INDEX_URL to the index on torch's install page that suits it. (ACCELERATOR=cpu: compute on the CPU)"
    )


def pip(title: str, *arguments: str) -> None:
    """``pip install`` with its output in the log and one line of progress."""
    command = [str(PYTHON), "-u", "-m", "pip", "install", "--no-input", "--progress-bar", "off", *arguments]
    logged(title, command)


def logged(title: str, command: list[str]) -> None:
    """An installer's ``command`` with its output in the log and one line of progress."""
    if show_progress(title, command, LOG, SITE_PACKAGES):
        tail = "\n".join(LOG.read_text().splitlines()[-12:])
        program = "uv" if command[0] == str(UV) else "pip"
        raise SetupError(f"{program} failed on {title}; the end of {LOG.relative_to(ROOT)}:\n{tail}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
