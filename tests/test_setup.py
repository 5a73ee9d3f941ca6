"""The set-up: which torch comes, what is refused before any download, and what an interrupted call leaves."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """setup/install.py with an environment of its own, run by this Python; its pip sees ``tmp_path`` and no index."""
    monkeypatch.syspath_prepend(ROOT / "setup")
    for name in [name for name in os.environ if name.startswith("PIP_") or name == "ACCELERATOR"]:
        monkeypatch.delenv(name)
    settings = {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "NO_CACHE_DIR": "1", "FIND_LINKS": str(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    module = import_module("install")
    site, log = tmp_path / "site-packages", tmp_path / "install.log"
    places = {"VENV": tmp_path, "STAMP": tmp_path / "install.json", "SITE_PACKAGES": site, "LOG": log}
    for name, path in {**places, "PYTHON": Path(sys.executable)}.items():
        monkeypatch.setattr(module, name, path)
    site.mkdir()
    yield module
    sys.modules.pop("install")
    sys.modules.pop("progress")


def wheel(folder: Path, version: str, size: int = 0) -> Path:
    """A wheel named like torch's, of about ``size`` bytes."""
    path = folder / f"torch-{version}-py3-none-any.whl"
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("torch/ballast", bytes(size))
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


def test_the_chosen_wheel_is_the_one_pip_chooses(install: ModuleType, tmp_path: Path) -> None:
    wheel(tmp_path, "2.13.0")
    assert install.chosen_wheel("torch==2.13.0") == "torch-2.13.0-py3-none-any.whl"
    wheel(tmp_path, "2.13.0+cpu")
    assert install.chosen_wheel("torch==2.13.0") == "torch-2.13.0+cpu-py3-none-any.whl"
    with pytest.raises(install.SetupError, match=r"no wheel of torch==9\.9"):
        install.chosen_wheel("torch==9.9")


class Index(SimpleHTTPRequestHandler):
    """Hands out a folder, 256 KiB in a twentieth of a second; ``sent`` counts the bytes."""

    sent = 0

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(OSError):
            while part := source.read(1 << 18):
                outputfile.write(part)
                Index.sent += len(part)
                time.sleep(0.05 * (len(part) == 1 << 18))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder and returns its address."""
    servers = []

    def serve(folder: Path) -> str:
        folder.mkdir()
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()


def test_asking_does_not_download(
    install: ModuleType, served: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hands out a large wheel slowly sees pip go long before the end."""
    monkeypatch.setenv("PIP_FIND_LINKS", f"{served(tmp_path / 'served')}/")
    size = wheel(tmp_path / "served", "2.13.0", size=1 << 26).stat().st_size
    monkeypatch.setattr(Index, "sent", 0)
    assert install.chosen_wheel("torch==2.13.0") == "torch-2.13.0-py3-none-any.whl"
    assert Index.sent < size / 2


def test_only_linux_machines_without_a_gpu_have_no_use_for_a_cuda_build(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    cuda = "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert install.needless_cuda_build(cuda, "cpu")
    assert not install.needless_cuda_build(cuda, "cuda")
    assert not install.needless_cuda_build(cuda.replace("2.13.0", "2.13.0+cpu"), "cpu")
    monkeypatch.setattr(install.platform, "system", lambda: "Darwin")
    assert not install.needless_cuda_build("torch-2.13.0-cp311-none-macosx_14_0_arm64.whl", "cpu")


@pytest.mark.parametrize("offered", [True, False])
def test_where_pip_finds_only_a_cuda_build_torchs_own_index_is_asked_for_the_cpu_build(
    offered: bool, install: ModuleType, served: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one the set-up ends before it installs anything."""
    pin, own = install.pinned("torch"), f"{served(tmp_path / 'own')}"
    (tmp_path / "own" / "torch").mkdir()
    if offered:
        wheel(tmp_path / "own" / "torch", f"{pin}+cpu")
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "empty").as_uri())
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))  # this Python's own environment stays as it is
    monkeypatch.setattr(install, "CPU_BUILDS", own)
    monkeypatch.setattr(install, "PATIENCE", 5)
    monkeypatch.setattr(install.platform, "system", lambda: "Linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    cuda = wheel(tmp_path, pin)
    if offered:
        install.install_torch(f"torch=={pin}", "cpu")
        assert (tmp_path / "target" / f"torch-{pin}+cpu.dist-info").is_dir()
    else:
        with pytest.raises(
            install.SetupError, match=rf"would fetch {cuda.name}.*PIP_EXTRA_INDEX_URL.*ACCELERATOR=cuda"
        ):
            install.install_torch(f"torch=={pin}", "cpu")
        assert not (tmp_path / "target").exists()


def test_an_index_that_does_not_answer_is_asked_twice_and_no_longer_than_told(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pip's settings are. The kernel answers for a socket that listens, and nobody reads what comes."""
    pin = install.pinned("torch")
    wheel(tmp_path, pin)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "site-packages").as_uri())
    for setting in ("DEFAULT_TIMEOUT=180", "RETRIES=5", "DISABLE_PIP_VERSION_CHECK=1"):
        monkeypatch.setenv(*f"PIP_{setting}".split("="))
    monkeypatch.setattr(install, "PATIENCE", 0.5)
    monkeypatch.setattr(install, "needless_cuda_build", lambda *_: True)  # on every kind of machine
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        monkeypatch.setattr(install, "CPU_BUILDS", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(install.SetupError, match=r"does not answer"):
            install.install_torch(f"torch=={pin}", "cpu")
        silent.setblocking(False)
        for _ in range(2):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_accelerator_is_found_or_said(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.Path, "glob", lambda *_: iter(()))  # no /dev/nvidia*
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.chosen_accelerator() == "cpu"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    smi.chmod(0o755)
    assert install.chosen_accelerator() == "cuda"
    smi.write_text("#!/bin/sh\necho 'No devices found.'; exit 6\n")
    assert install.chosen_accelerator() == "cpu"
    monkeypatch.setenv("ACCELERATOR", "cuda")
    assert install.chosen_accelerator() == "cuda"
    monkeypatch.setenv("ACCELERATOR", "gpu")
    with pytest.raises(install.SetupError, match="ACCELERATOR=gpu: expected cpu or cuda"):
        install.chosen_accelerator()


@pytest.mark.parametrize(
    ("version", "fails", "expected"),
    [(13000, 0, ["dali"]), (12080, 0, ["dali-cuda12"]), (0, -1, ["dali"]), (None, 0, ["dali"])],
)
def test_a_gpu_machine_gets_dali_for_its_driver(
    version: int | None, fails: int, expected: list[str], install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver's library that gives its version, one that fails, and none."""

    def answer(reference: Any) -> int:
        reference._obj.value = version
        return fails

    def load(name: str) -> SimpleNamespace:
        if version is None or name != "libcuda.so.1":
            raise OSError(name)
        return SimpleNamespace(cuDriverGetVersion=answer)

    monkeypatch.setattr(install.ctypes, "CDLL", load)
    assert install.gpu_extras("cuda", ["test"]) == expected
    assert install.gpu_extras("cpu", ["test"]) == install.gpu_extras("cuda", ["dali-cuda12"]) == []


def test_half_unpacked_packages_are_forgotten(install: ModuleType) -> None:
    for name, files in {"whole": ("METADATA", "INSTALLER", "RECORD"), "half": ("METADATA", "RECORD")}.items():
        folder = install.SITE_PACKAGES / f"{name}-1.0.dist-info"
        folder.mkdir()
        for file in files:
            (folder / file).touch()
    install.discard_half_installed()
    assert [path.name for path in install.SITE_PACKAGES.iterdir()] == ["whole-1.0.dist-info"]


def test_torch_is_held_at_the_very_build_that_is_there(install: ModuleType) -> None:
    pin = install.pinned("torch")
    lines = install.constraints(f"{pin}+cpu", pin).read_text().splitlines()
    assert f"torch=={pin}+cpu" in lines
    assert f"torch=={pin}" not in lines
    assert f"torchvision=={install.pinned('torchvision')}" in lines
    other = install.constraints("2.12.0+cu130", pin).read_text().splitlines()
    held = [line for line in other if line.startswith(("torch==", "torchvision"))]
    assert held == ["torch==2.12.0+cu130"]  # torchvision follows it


def test_a_finished_set_up_is_not_done_again_and_keeps_its_extras(install: ModuleType) -> None:
    now = install.key("cpu")
    install.STAMP.write_text(f'{{"key": "{now}", "extras": ["test"]}}')
    assert install.up_to_date({"key": now, "extras": []})
    assert install.up_to_date({"key": now, "extras": ["test"]})
    assert not install.up_to_date({"key": install.key("cuda"), "extras": []})
    wanted = {"key": now, "extras": ["dali"]}
    assert not install.up_to_date(wanted)
    assert wanted["extras"] == ["dali", "test"]
    install.STAMP.write_text("")  # cut short
    assert not install.up_to_date(wanted)


def test_the_stamp_is_there_whole_or_not_at_all(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set-up that ends just before the stamp is in its place leaves the old one."""
    for step in ("make_venv", "pip", "run", "check"):
        monkeypatch.setattr(install, step, lambda *_: None)
    monkeypatch.setattr(install, "installed", lambda *_: install.pinned("torch"))
    monkeypatch.setattr(install.Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    install.STAMP.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        install.install("cpu", {"key": "new", "extras": []})
    assert install.STAMP.read_text() == "old"


def test_a_venv_of_another_python_is_refused(install: ModuleType) -> None:
    (install.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.7.9\n")
    with pytest.raises(install.SetupError, match=r"made with Python 3\.7\.9.*rm -rf \.venv.*PYTHON=python3\.7 "):
        install.make_venv()
    (install.VENV / "pyvenv.cfg").write_text(f"version = {sys.version.split()[0]}\n")
    install.make_venv()


def test_quarrels_among_the_outer_pythons_packages_are_a_note(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = install.VENV / "python"
    python.write_text("#!/bin/sh\necho 'a 1.0 requires b, which is not installed.'; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(install, "PYTHON", python)
    with pytest.raises(install.SetupError, match=r"a 1\.0 requires b"):
        install.check()
    (install.VENV / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    install.check()
    assert re.search(r"(?s)note: pip check reports.*a 1\.0 requires b", capsys.readouterr().out)


def test_a_failing_pip_is_one_message_with_the_end_of_its_log(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    with pytest.raises(install.SetupError, match=r"(?s)pip failed on packages.*no-such-package"):
        install.pip("packages", "no-such-package")


def test_constraints_pin_every_requirement_of_pyproject() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in project["dependencies"] + optional:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "dira-scale":  # an extra made of other extras
            assert name in pins, f"constraints.txt lacks {name}"
            assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is not {requirement}"


PYTHON_OF_A_PRETRAINING = """#!/bin/sh
case "$*" in
  *"doctor show=launch") echo launcher ;;
  -m*) ;;
  *) exec {python} "$@" ;;
esac
"""
RUN = """
import json, pathlib, signal, sys, time
status = pathlib.Path("out/runs/phantom/status.json")
status.parent.mkdir(parents=True)
def stop(*_):
    status.write_text(json.dumps({"state": "interrupted"}))
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("started").touch()
time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_what_ends_make_pretrain_asks_the_run_for_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    """The script with a Python and a launcher of its own: the launcher knows no signals, its process does."""
    script = tmp_path / "setup" / "pretrain.sh"
    programs = {
        script: (ROOT / "setup" / "pretrain.sh").read_text(),
        tmp_path / ".venv" / "bin" / "python": PYTHON_OF_A_PRETRAINING.format(python=sys.executable),
        tmp_path / ".venv" / "bin" / "launcher": f"#!/bin/sh\n{sys.executable} run.py; exit 1\n",
    }
    for path, text in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)
    with subprocess.Popen([script], stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "interrupted; run make pretrain again to resume" in said


HOOK = """
import os, sys
# Python's own finders only: whatever made torchvision importable in this environment is taken away.
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("_frozen_importlib")]
from dira_scale.machine import torchvision_ops
torchvision_ops.register(); torchvision_ops.register()
import torch
assert "torchvision" not in sys.modules
bare = os.fork()  # one that has imported torch and has no hook
if not bare:
    sys.meta_path.remove(torchvision_ops.DeclareFirst)
    assert torchvision_ops.DeclareFirst not in sys.meta_path
    import torchvision.extension
    os._exit(0)
bare = os.waitstatus_to_exitcode(os.waitpid(bare, 0)[1])
import torchvision.extension
print(torchvision.extension._has_ops(), len(torchvision_ops._declared), bare)
"""


def test_torchvision_is_importable_whatever_torch_it_was_built_for() -> None:
    """Without the hook the import works exactly where the native library loads; with it, everywhere."""
    done = subprocess.run([sys.executable, "-c", HOOK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    native, declared, bare = done.stdout.split()
    assert (native, declared) in {("True", "0"), ("False", "1")}
    assert (bare == "0") == (native == "True")
    if native == "False":
        assert "torchvision::nms does not exist" in done.stderr
